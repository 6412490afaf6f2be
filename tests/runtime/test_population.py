"""Population based training on a real cluster, and its generations without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from ray_st import SentenceTransformer, SentenceTransformerTrainer, losses
from ray_st.training_args import SentenceTransformerTrainingArguments

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = ["good", "bad", "weather", "man", "eats", "pasta", "sunny", "text"]
ANCHORS = [f"{WORDS[i % 8]} {WORDS[i // 8]} a" for i in range(64)]
POSITIVES = [f"{WORDS[i // 8]} the {WORDS[i % 8]}" for i in range(64)]
RATES = [1e-9, 5e-3, 1e-2, 2e-9]


def make_trainer(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    """Trains 64 pairs in 16 steps."""

    def model_init() -> SentenceTransformer:
        return SentenceTransformer(str(model_folder), device="cpu")

    def loss_init(model: Any) -> Any:
        return losses.MultipleNegativesRankingLoss(model)

    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        save_strategy="no",
        report_to=[],
        **options.pop("arguments", {}),
    )
    data = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES})
    return SentenceTransformerTrainer(
        args=args, train_dataset=data, eval_dataset=data, model_init=model_init, loss=loss_init, **options
    )


def space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-9, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
    }


def search(trainer: Any, name: str = "s", n: int = 4, **options: Any) -> Any:
    points = [{"learning_rate": rate, "weight_decay": 0.01} for rate in RATES[:n]]
    given = {"points_to_evaluate": points, "rungs": 3, "scheduler": "pbt", "max_concurrent_trials": 2}
    return trainer.hyperparameter_search(space, "eval_loss", n, name=name, **{**given, **options})


def test_bad_trials_go_on_as_copies_of_good_ones(tmp_path: Path, tiny_folder: Path) -> None:
    best = search(make_trainer(tmp_path, tiny_folder))
    trials = best.run_summary.trials
    for trial in trials:
        print(
            trial.number,
            trial.state,
            trial.changes,
            [(e["evaluation"], e["objectives"]) for e in trial.history],
            trial.values,
            trial.spans,
        )
    assert [trial.state for trial in trials] == ["COMPLETE"] * 4
