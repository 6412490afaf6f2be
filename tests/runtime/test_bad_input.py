"""What only the cluster can find is refused before any worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.train
from datasets import Dataset

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.training.checkpoint.store import STATES, CheckpointError, CheckpointStore

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch, cluster: None) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("workers were started")

    monkeypatch.setattr("ray_st.runtime.train.launch.TorchTrainer.fit", refuse)


def trainer(model: Any, folder: Path, dataset: Any, workers: int = 1) -> SentenceTransformerTrainer:
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder)),
        train_dataset=dataset,
        loss=losses.MultipleNegativesRankingLoss(model),
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
    )


def test_unusable_texts(tiny_model: Any, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"a": ["one", "two", "three"], "b": ["x", None, "  "]})
    with pytest.raises(ValueError, match=r"train_dataset: row 1, column 'b'.*None.*2 of 3 rows"):
        trainer(tiny_model, tmp_path, rows).train()


def test_a_ray_dataset_of_numbers(tiny_model: Any, tmp_path: Path) -> None:
    rows = ray.data.from_items([{"a": "one", "b": 1.5}])
    with pytest.raises(ValueError, match="column 'b': texts must be strings; found type double"):
        trainer(tiny_model, tmp_path, rows).train()


def test_fewer_rows_than_workers(tiny_model: Any, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"a": ["one"], "b": ["two"]})
    with pytest.raises(ValueError, match=r"1 row\(s\), fewer than the 2 workers"):
        trainer(tiny_model, tmp_path, rows, workers=2).train()


def test_more_workers_than_the_cluster_has(tiny_model: Any, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"a": ["one"] * 99, "b": ["two"] * 99})
    with pytest.raises(ValueError, match=r"99 worker.s. .* the cluster has \{'CPU': 4"):
        trainer(tiny_model, tmp_path, rows, workers=99).train()


def test_resuming_from_nothing(tiny_model: Any, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"a": ["one"], "b": ["two"]})
    with pytest.raises(ValueError, match="found no complete checkpoint"):
        trainer(tiny_model, tmp_path / "out", rows).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="no checkpoint there"):
        trainer(tiny_model, tmp_path / "out", rows).train(resume_from_checkpoint=str(tmp_path))


def test_a_checkpoint_of_another_model(tiny_model: Any, tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), run_id="before")
    folder = store.begin(7)
    for name in ("trainer_state.json", *STATES):
        (folder / name).write_text("{}")
    store.seal(folder, model="9 values in 2 tensors (0123456789abcdef)", data={})
    rows = Dataset.from_dict({"a": ["one", "two"], "b": ["three", "four"]})
    for resume in (True, str(folder)):
        with pytest.raises(
            CheckpointError, match=r"another model: it holds 9 values .*; this model has [\d,]+"
        ):
            trainer(tiny_model, tmp_path, rows).train(resume_from_checkpoint=resume)
