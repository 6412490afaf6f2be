"""What the driver's trainer has after a run whose folder is in an object store."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.fs as pafs
import pytest
import torch

from ray_st import SentenceTransformerTrainer
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.trained_weights import keep_trained


@pytest.fixture
def in_bucket(sent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers' trainers find their workers in this process, and leave their weights in an object store."""
    (tmp_path / "bucket").mkdir()
    bucket = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())

    def run(self: Any, task: Any, make_parts: Any, resume: Any, keeps: bool) -> Any:
        trainer = sent(self, parts=make_parts(1))
        result, run_id = task(trainer, None), uuid4().hex
        weights = keep_trained(CheckpointStore("run", bucket, run_id), trainer.model, trainer.loss)
        store = CheckpointStore("run", bucket, run_id, scratch_dir=self.args.scratch_dir)
        return replace(result, weights=weights, store=store)

    monkeypatch.setattr(SentenceTransformerTrainer, "_on_cluster", run)


def values(model: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def differ(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("limit", [0, 10**9], ids=["late", "at once"])
def test_a_second_training_goes_on_from_the_first_ones_weights(
    make: Callable[..., Any], in_bucket: None, tmp_path: Path, limit: int
) -> None:
    trainer = make(arguments={"eager_download_bytes": limit, "scratch_dir": str(tmp_path / "scratch")})
    found = [values(trainer.model)]
    for _ in range(2):
        trainer.train()
        assert limit or not any(weight.numel() for weight in trainer.model.parameters())
        trainer.model.encode(["used"])
        found.append(values(trainer.model))
        assert len(list((tmp_path / "scratch").rglob("trained-*.safetensors"))) == 1
        assert not [name for name in trainer.own_attributes() if "weights" in name]
    assert all(differ(before, after) for before, after in itertools.pairwise(found))
