"""A second kind of model is a value: it trains, resumes, evaluates, predicts and is searched with the trainer as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from pair_family import PairAccuracy, PairModel, PairTrainer
from ray_st import SentenceTransformerTrainingArguments

ROWS = [(f"what is {i % 7}", f"it is {(i + i % 2) % 7}", 1 - i % 2) for i in range(48)]
DATA = Dataset.from_dict(
    {"query": [q for q, _, _ in ROWS], "document": [d for _, d, _ in ROWS], "label": [y for *_, y in ROWS]}
)


def trainer(folder: Path, workers: int = 0, **arguments: Any) -> PairTrainer:
    from ray.train import ScalingConfig

    defaults = {
        "num_train_epochs": 6,
        "global_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 0.05,
        "logging_steps": 6,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
    }
    return PairTrainer(
        model=PairModel(),
        args=SentenceTransformerTrainingArguments(str(folder), **{**defaults, **arguments}),
        train_dataset=DATA,
        eval_dataset=DATA.select(range(16)),
        evaluator=PairAccuracy([(q, d) for q, d, _ in ROWS], [y for *_, y in ROWS]),
        scaling_config=ScalingConfig(num_workers=workers),
    )


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_it_trains_evaluates_and_predicts(tmp_path: Path) -> None:
    made = trainer(tmp_path, num_train_epochs=30)
    before = made.evaluate()
    made.train()
    after = made.evaluate()
    assert after["eval_loss"] < before["eval_loss"] / 2
    assert after["eval_accuracy"] > 0.9 > before["eval_accuracy"]
    found = made.predict(DATA)
    pairs = [(q, d) for q, d, _ in ROWS]
    (logits,) = found.predictions
    np.testing.assert_allclose(torch.sigmoid(torch.tensor(logits)), made.model.predict(pairs), atol=1e-6)
    made.save_model(str(tmp_path / "saved"))
    again = PairModel(seed=1)
    again.load(str(tmp_path / "saved"))
    assert torch.equal(weights(again), weights(made.model))


def test_a_resumed_run_ends_like_one_that_went_through(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()
    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-18"))
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.ray
def test_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    here = trainer(tmp_path / "here")
    here.train()
    there = trainer(tmp_path / "there", workers=2)
    there.train()
    torch.testing.assert_close(weights(there.model), weights(here.model), atol=1e-4, rtol=1e-4)
    assert there.evaluate()["eval_accuracy"] == pytest.approx(here.evaluate()["eval_accuracy"])


@pytest.mark.ray
def test_it_is_searched(cluster: Any, tmp_path: Path) -> None:
    searched = PairTrainer(
        model_init=lambda: PairModel(),
        args=SentenceTransformerTrainingArguments(
            str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            eval_strategy="epoch",
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=DATA,
        eval_dataset=DATA.select(range(16)),
    )
    best = searched.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        n_trials=2,
        direction="minimize",
        name="pairs",
    )
    assert set(best.hyperparameters) == {"learning_rate"}
    assert np.isfinite(best.objective)
