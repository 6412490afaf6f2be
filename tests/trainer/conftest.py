from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.data.local_source import local_context
from ray_st.training.trained_weights import keep_trained

ROWS = Dataset.from_dict({"a": [f"one {i}" for i in range(12)], "b": [f"two {i * i}" for i in range(12)]})
ARGUMENTS = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 5,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
}


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a driver's trainer over twelve pairs; keyword arguments are the trainer's, ``arguments`` go into its own."""

    def make(kind: Any = SentenceTransformerTrainer, arguments: Any = None, **options: Any) -> Any:
        if "model_init" not in options:
            options.setdefault("model", SentenceTransformer(tiny_folder, device="cpu"))
        folder = {"output_dir": str(tmp_path / "out")}
        return kind(
            args=SentenceTransformerTrainingArguments(**{**folder, **ARGUMENTS, **(arguments or {})}),
            train_dataset=options.pop("train_dataset", ROWS),
            loss=options.pop("loss", MultipleNegativesRankingLoss),
            **options,
        )

    return make


@pytest.fixture
def sent(tmp_path: Path) -> Callable[..., Any]:
    """A worker's trainer: the driver's, pickled as it travels, in this process."""
    from ray_st.runtime.cluster.pickled import copy_of

    def sent(trainer: Any, **place: Any) -> Any:
        parts = place.pop("parts", None) or trainer.data.train_specs(1)
        return copy_of(trainer.spec()).rebuild(
            local_context(parts, place.pop("folder", tmp_path / "run"), **place)
        )

    return sent


@pytest.fixture
def on_cluster(sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Driver's trainers find their workers in this process."""

    def run(self: Any, task: Any, make_parts: Any, resume: Any, keeps: bool) -> Any:
        trainer = sent(self, parts=make_parts(1))
        result, store = task(trainer, resume if isinstance(resume, str) else None), trainer.worker.store
        weights = keep_trained(store, trainer.model, trainer.loss) if keeps else ""
        return replace(result, weights=weights, store=store)

    monkeypatch.setattr(SentenceTransformerTrainer, "_on_cluster", run)
