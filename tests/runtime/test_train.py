"""Whole runs on a local cluster. Each starts worker processes, so there are few of them, each with many questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch
from datasets import Dataset

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from runtime_helpers import Doubled, KillOnce, Remember, difference, losses_of

pytestmark = pytest.mark.ray

ROWS, GLOBAL_BATCH = 72, 16


def rows() -> Dataset:
    words = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]
    return Dataset.from_dict(
        {
            "anchor": [f"{words[i % 10]} {i}" for i in range(ROWS)],
            "positive": [f"{words[(i * 3) % 10]} the {words[i % 7]} {i * i}" for i in range(ROWS)],
        }
    )


def train(folder: Path, model_folder: Path, workers: int, **options: Any) -> SentenceTransformerTrainer:
    model = SentenceTransformer(model_folder, device="cpu")
    arguments = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": GLOBAL_BATCH // max(workers, 1),
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "batch_sampler": "no_duplicates",
        **options.pop("arguments", {}),
    }
    trainer = options.pop("kind", SentenceTransformerTrainer)(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=options.pop("train_dataset", rows()),
        loss=losses.MultipleNegativesRankingLoss(model, gather_across_devices=True),
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        **options,
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def alone(cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("alone"), tiny_folder, workers=1, callbacks=[Remember()])


@pytest.fixture(scope="module")
def pair(cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two workers, with checkpoints, over a Ray Dataset."""
    return train(
        tmp_path_factory.mktemp("pair"),
        tiny_folder,
        workers=2,
        train_dataset=ray.data.from_arrow(rows().data.table),
        arguments={"save_strategy": "steps", "save_steps": 3, "save_total_limit": 2},
    )


def test_the_caller_has_the_trained_model_and_the_history(alone: Any, tiny_model: Any) -> None:
    steps = 2 * -(-ROWS // GLOBAL_BATCH)
    assert alone.state.global_step == steps
    assert len(losses_of(alone)) == steps
    assert alone.own_callbacks()[0].losses == losses_of(alone)
    moved = max(
        float((alone.model.state_dict()[name] - tensor).abs().max())
        for name, tensor in tiny_model.state_dict().items()
    )
    assert moved > 1e-4


def test_without_workers_the_losses_are_those_of_one(alone: Any, tiny_folder: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray gives a worker with one CPU
    try:
        here = train(tmp_path, tiny_folder, workers=0, arguments={"report_to": "none"})
    finally:
        torch.set_num_threads(threads)
    assert losses_of(here) == losses_of(alone)
    assert difference(here, alone) == 0.0


def test_two_workers_equal_one_on_the_same_global_batches(alone: Any, pair: Any) -> None:
    assert losses_of(pair) == pytest.approx(losses_of(alone), abs=1e-5)
    assert difference(pair, alone) < 1e-5


def test_only_the_newest_checkpoints_stay(pair: Any) -> None:
    folder = Path(pair.args.output_dir)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-9"]
    assert (folder / "checkpoint-9" / "manifest.json").is_file()
    assert not list(folder.rglob("training_args.bin"))


def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_unbroken(
    pair: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    broken = train(
        tmp_path / "broken",
        tiny_folder,
        workers=2,
        callbacks=[KillOnce(5, tmp_path / "killed")],
        arguments={"save_strategy": "steps", "save_steps": 3},
    )
    assert (tmp_path / "killed").exists()
    assert losses_of(broken) == pytest.approx(losses_of(pair), abs=1e-7)
    assert difference(broken, pair) == 0.0


def test_sharded_weights_train_like_whole_ones(pair: Any, tiny_folder: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 5}
    sharded = train(tmp_path / "out", tiny_folder, workers=2, arguments={"fsdp": True, **saving})
    assert losses_of(sharded) == pytest.approx(losses_of(pair), abs=1e-5)
    assert difference(sharded, pair) < 1e-5


def test_a_subclass_an_evaluator_and_the_best_model(
    cluster: None, alone: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    texts = rows()
    evaluator = EmbeddingSimilarityEvaluator(
        texts["anchor"][:20], texts["positive"][:20], [i / 20 for i in range(20)], name="dev"
    )
    trainer = train(
        tmp_path / "out",
        tiny_folder,
        workers=2,
        kind=Doubled,
        evaluator=evaluator,
        eval_dataset=texts.select(range(30)),
        arguments={
            "num_train_epochs": 1,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_dev_spearman_cosine",
            "greater_is_better": True,
        },
    )
    assert losses_of(trainer)[0] == pytest.approx(2 * losses_of(alone)[0], abs=1e-5)
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    scores = {entry["step"]: entry["eval_dev_spearman_cosine"] for entry in evaluations}
    best = max(scores, key=lambda step: scores[step])
    assert trainer.state.best_global_step == best
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / f"checkpoint-{best}")
    assert evaluator(trainer.model)["dev_spearman_cosine"] == pytest.approx(scores[best], abs=1e-6)
    again = trainer.evaluate()
    assert again["eval_dev_spearman_cosine"] == pytest.approx(scores[best], abs=1e-6)
    resumed = trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert resumed.global_step == 5
