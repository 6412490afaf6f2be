"""Searches with constraints on a cluster: measured in the trials, on one worker and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig

from ray_st import SentenceTransformer
from ray_st.study.constraints import MEASURED
from ray_st.study.journal import Journal
from ray_st.tune.results import SearchFailed
from search_helpers import make_trainer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def space(trial: Any) -> dict[str, Any]:
    return {"widened": trial.suggest_categorical("widened", [False, True])}


def wide_if_asked(folder: Path) -> Any:
    def model_init(trial: Any) -> SentenceTransformer:
        from ray_st import models

        model = SentenceTransformer(str(folder), device="cpu")
        if trial is not None and trial["widened"]:
            width = model.get_sentence_embedding_dimension()
            model.append(models.Dense(width, 4096))
        return model

    return model_init


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_model_that_is_too_large_is_stopped_at_once(
    workers: int, tmp_path: Path, tiny_folder: Path
) -> None:
    trainer = make_trainer(tmp_path, tiny_folder, scaling_config=ScalingConfig(num_workers=workers))
    trainer.model_init = wide_if_asked(tiny_folder)
    small = sum(weight.numel() for weight in wide_if_asked(tiny_folder)(None).parameters()) * 4 / 2**20
    best = trainer.hyperparameter_search(
        space,
        "eval_loss",
        n_trials=0,
        points_to_evaluate=[{"widened": False}, {"widened": True}],
        constraints=[f"model_mib <= {small * 1.05}", "peak_memory_mib <= 1e6", "encode_ms <= 1e6"],
        rungs=3,
        max_concurrent_trials=1,
        name="s",
    )
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    assert best.run_id == "0"
    assert [(trial.state, len(trial.history)) for trial in trials] == [("COMPLETE", 3), ("PRUNED", 1)]
    assert trials[1].reason.startswith("it violates model_mib <= ")
    for trial in trials:
        metrics = trial.history[-1]["metrics"]
        assert metrics.keys() >= MEASURED.keys()
        assert all(metrics[name] > 0 for name in MEASURED)
    assert [trial.is_feasible for trial in trials] == [True, False]
    assert "yes" in (tmp_path / "s" / "trials.csv").read_text()


def test_the_search_fails_with_the_nearest_trial(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    with pytest.raises(SearchFailed, match=r"nearest is trial 0: eval_loss <= 1e-06 \(it has"):
        trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-4)},
            ["eval_loss", "encode_ms"],
            n_trials=1,
            direction=["minimize", "minimize"],
            constraints=["eval_loss <= 0.000001"],
            name="s",
        )


def test_dominated_trials_stop_early(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    trainer.model_init = wide_if_asked(tiny_folder)
    front = trainer.hyperparameter_search(
        lambda trial: {**space(trial), "learning_rate": trial.suggest_float("learning_rate", 0, 1e-2)},
        ["eval_loss", "model_mib"],
        n_trials=0,
        direction=["minimize", "minimize"],
        scheduler="asha",
        points_to_evaluate=[
            {"widened": False, "learning_rate": 1e-2},
            {"widened": True, "learning_rate": 0.0},  # larger, and learns nothing
        ],
        rungs=3,
        max_concurrent_trials=1,
        name="s",
    )
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    assert [(trial.state, len(trial.history)) for trial in trials] == [("COMPLETE", 3), ("PRUNED", 1)]
    assert isinstance(front, list)
    assert [run.run_id for run in front] == ["0"]


def test_a_metric_that_user_code_does_not_report_ends_the_search(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder, compute_metrics=lambda prediction: {"mine": 1.0})
    with pytest.raises(ValueError, match="constraints: no evaluation reports 'eval_yours'"):
        trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-4)},
            "eval_loss",
            n_trials=4,
            constraints=["eval_yours <= 1"],
            max_concurrent_trials=1,
            name="s",
        )
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    assert [trial.state for trial in trials] == ["FAIL"]
