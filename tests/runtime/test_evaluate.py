"""Evaluation on several workers, and beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from datasets import Dataset

import evaluators
from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.runtime.encode.rank_evaluators import evaluate_on_workers
from ray_st.runtime.supervision.failures import RunStopped
from runtime_helpers import KillOnce

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

TIMES = ("runtime", "per_second")


@pytest.fixture
def model(tiny_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(tiny_folder, device="cpu")


def test_figures_are_those_of_one_process_to_the_last_digit(
    model: SentenceTransformer, tmp_path: Path
) -> None:
    expected: dict[str, Any] = {}
    for place, evaluator in enumerate(evaluators.one_of_each()):
        found = evaluator(model, output_path=str(tmp_path / "here"))
        expected |= found if isinstance(found, dict) else {f"evaluator_{place}": found}
    scaling = ray.train.ScalingConfig(num_workers=3)
    asked = evaluators.one_of_each()
    figures = evaluate_on_workers(model, asked, scaling, str(tmp_path / "workers"))
    assert list(figures) == list(expected)
    assert {name: f"{value:.12g}" for name, value in figures.items()} == {
        name: f"{value:.12g}" for name, value in expected.items()
    }
    assert asked[0].primary_metric == "sts_spearman_cosine"
    assert {score.dataset for score in model.model_card_data.scores} >= {"sts", "triplets", "ir"}
    for file in (tmp_path / "here").iterdir():
        ours, theirs = (
            (tmp_path / side / file.name).read_text().splitlines() for side in ("workers", "here")
        )
        assert len(ours) == 2  # the header and one line: one rank writes
        assert ours[0] == theirs[0]


def test_an_evaluator_that_fails_on_one_rank_ends_the_evaluation_by_name(
    model: SentenceTransformer, tmp_path: Path
) -> None:
    scaling = ray.train.ScalingConfig(num_workers=2)
    with pytest.raises(RunStopped, match="rank 0: ValueError: the disk is full"):
        evaluate_on_workers(model, [evaluators.broken, *evaluators.one_of_each()], scaling, str(tmp_path))


def train(folder: Path, tiny_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    model = SentenceTransformer(tiny_folder, device="cpu")
    rows = Dataset.from_dict({"a": evaluators.texts(64, 1), "b": evaluators.texts(64, 2)})
    arguments = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 5,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_sts_spearman_cosine",
        "greater_is_better": True,
        **options.pop("arguments"),
    }
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=rows,
        eval_dataset=rows.select(range(23)),
        loss=losses.MultipleNegativesRankingLoss(model),
        evaluator=options.pop("evaluator", None) or evaluators.one_of_each(),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        **options,
    )
    trainer.train()
    return trainer


@pytest.mark.long
def test_evaluation_beside_two_workers_one_of_which_is_killed(tiny_folder: Path, tmp_path: Path) -> None:
    expected = train(tmp_path / "workers", tiny_folder, arguments={})
    found = train(
        tmp_path / "background",
        tiny_folder,
        arguments={"eval_on": "background", "eval_resources": {"CPU": 0.5}},
        callbacks=[KillOnce(5, tmp_path / "killed")],
    )
    assert (tmp_path / "killed").exists()
    for ours, theirs in zip(found.state.log_history, expected.state.log_history, strict=True):
        mine, others = (
            {
                name: value
                for name, value in entry.items()
                if not name.endswith(TIMES) and name != "train_loss"
            }
            for entry in (ours, theirs)
        )
        assert mine == pytest.approx(others, abs=1e-6)
    evaluated = [entry["step"] for entry in found.state.log_history if "eval_loss" in entry]
    assert evaluated == [2, 4, 6, 8]
    assert found.state.best_global_step == expected.state.best_global_step
    assert found.state.best_model_checkpoint == str(
        tmp_path / "background" / f"checkpoint-{found.state.best_global_step}"
    )
    ours, theirs = found.model.state_dict(), expected.model.state_dict()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) == 0.0


def test_an_evaluation_beside_that_fails_ends_the_run_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = {"eval_on": "background", "load_best_model_at_end": False, "metric_for_best_model": None}
    with pytest.raises(RunStopped, match=r"EvaluationError: The evaluation of step 2(.|\n)*the disk is full"):
        train(tmp_path, tiny_folder, evaluator=evaluators.broken, arguments=arguments)
    assert (tmp_path / "checkpoint-2").is_dir()
