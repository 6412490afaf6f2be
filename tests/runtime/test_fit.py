"""fit on a cluster: what it leaves on the driver, and what it tells it meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
from torch.utils.data import DataLoader

from legacy_helpers import Scores, examples
from ray_st import SentenceTransformer, losses
from ray_st.runtime.cluster.driver_proxy import DriverProxyError, proxied

pytestmark = pytest.mark.ray


def test_fit_trains_on_two_workers_and_reports_here(
    cluster: None, tiny_model: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    calls: list[Any] = []
    options: dict[str, Any] = {"epochs": 2, "warmup_steps": 2, "optimizer_params": {"lr": 1e-3}}

    def objectives(model: Any) -> Any:
        return [(DataLoader(examples(12), batch_size=4), losses.CosineSimilarityLoss(model))]

    def record(score: float, epoch: float, steps: int) -> None:
        calls.append((score, epoch, steps))

    tiny_model.fit(
        objectives(tiny_model),
        evaluator=Scores([0.5, 0.1]),
        output_path=str(tmp_path / "best"),
        checkpoint_path=str(tmp_path / "steps"),
        callback=record,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        **options,
    )
    other = SentenceTransformer(tiny_folder, device="cpu")
    other.old_fit(objectives(other), show_progress_bar=False, **options)
    texts = ["good weather", "the man eats pasta"]
    np.testing.assert_allclose(tiny_model.encode(texts), other.encode(texts), atol=1e-4)
    assert calls == [(0.5, 1.0, 3), (0.1, 2.0, 6)]
    best = SentenceTransformer(tmp_path / "best", device="cpu")  # that of the first epoch
    assert np.abs(best.encode(texts) - tiny_model.encode(texts)).max() > 1e-4
    assert [path.name for path in (tmp_path / "steps").glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_relay_answers_other_processes(cluster: None) -> None:
    @ray.remote(num_cpus=0)
    def call(relay: Any) -> Any:
        return relay("index", 2), relay("copy")

    with proxied([1, 2]) as relay:
        assert ray.get(call.remote(relay)) == (1, [1, 2])
    with (
        pytest.raises(ValueError, match="is not in list"),
        proxied([1, 2]) as relay,
        pytest.raises(DriverProxyError, match="index"),
    ):
        relay("index", 3)
