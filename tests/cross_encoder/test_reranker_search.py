"""A search of rerankers: twelve trials over loss, learning rate and number of negatives, and a driver that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import reranker_search
from ray_st import CrossEncoder
from ray_st.study.journal import Journal
from ray_st.study.trial_arguments import SpaceError
from reranker_search import LISTWISE, LOSSES, OBJECTIVE, RUNGS, TRIALS, evaluator, make_trainer, rows_of_trial

SEARCHES = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def on_cluster(test: Any) -> Any:
    for mark in SEARCHES:
        test = mark(test)
    return test


@on_cluster
@pytest.mark.long
def test_twelve_trials_over_loss_rate_and_negatives(tmp_path: Path, tiny_reranker: Path) -> None:
    best = reranker_search.search(tmp_path, tiny_reranker, "s", "ray")
    trials = best.run_summary.trials
    assert len(trials) == TRIALS
    assert {trial.state for trial in trials} == {"COMPLETE", "PRUNED"}
    assert {trial.values["loss"] for trial in trials} == set(LOSSES)
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    # As long as the rows of so many negatives are, in the loss's form.
    assert [trial.step for trial in complete] == [reranker_search.steps(trial.values) for trial in complete]
    assert [len(trial.history) for trial in complete] == [RUNGS] * len(complete)
    assert best.objective == max(trial.objectives[0] for trial in complete)
    before = evaluator()(CrossEncoder(str(tiny_reranker), device="cpu"))["dev_map"]
    assert best.objective > before + 0.1
    assert set(best.hyperparameters) == {"loss", "learning_rate", "negatives"}


# ---- a driver that is killed ----

KILLED_AT = 6
TESTS = str(Path(__file__).parents[1])
SCRIPT = f"""
import os, signal, sys
from pathlib import Path
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
import reranker_search
from ray_st.study import journal
append = journal.Journal.append
def deadly(self, **event):
    written = append(self, **event)
    if event["event"] == "reported" and event["number"] >= {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
    return written
journal.Journal.append = deadly
reranker_search.search(Path(sys.argv[1]), Path(sys.argv[2]), "s", save_strategy="steps", save_steps=1)
"""


@pytest.mark.long
@on_cluster
def test_a_killed_driver_goes_on_to_the_same_states(tmp_path: Path, tiny_reranker: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), str(tiny_reranker)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    path = tmp_path / "s" / "journal.jsonl"
    before = Journal(path).read()
    killed = Journal(path).records()
    assert [trial.is_running for trial in killed] == [False] * KILLED_AT + [True]

    options = {"save_strategy": "steps", "save_steps": 1}
    best = reranker_search.search(tmp_path, tiny_reranker, "s", **options)
    after = Journal(path).read()
    assert after[: len(before)] == before
    assert {event["number"] for event in after[len(before) :]} == set(range(KILLED_AT, TRIALS))

    unbroken = reranker_search.search(tmp_path, tiny_reranker, "unbroken", **options)
    ours, theirs = (Journal(tmp_path / name / "journal.jsonl").records() for name in ("s", "unbroken"))
    assert [trial.state for trial in ours] == [trial.state for trial in theirs]
    assert {trial.state for trial in ours} == {"COMPLETE", "PRUNED"}
    assert [trial.values for trial in ours] == [trial.values for trial in theirs]
    assert [trial.objectives for trial in ours] == [pytest.approx(trial.objectives) for trial in theirs]
    assert best[:3] == pytest.approx(unbroken[:3])


# ---- before it starts ----


@pytest.mark.parametrize(
    ("name", "objective", "error", "said"),
    [
        ("negative", OBJECTIVE, SpaceError, "did you mean 'negatives'"),
        ("negatives", "eval_dev_mpa", ValueError, "did you mean 'eval_dev_map'"),
        ("negatives", "eval_loss", ValueError, "reported by no evaluation"),
    ],
)
def test_mistakes_are_named(
    name: str, objective: str, error: type[Exception], said: str, tmp_path: Path, tiny_reranker: Path
) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {**reranker_search.space(trial), name: trial.suggest_int(name, 1, 4)}

    trainer = make_trainer(tmp_path, tiny_reranker)
    with pytest.raises(error, match=said):
        trainer.hyperparameter_search(space, objective, TRIALS, "maximize", data_init=rows_of_trial)


def test_rows_follow_the_loss_and_the_number_of_negatives() -> None:
    pairs = rows_of_trial({"loss": "MSELoss", "negatives": 3})
    assert (len(pairs), pairs.column_names, sum(pairs["label"])) == (96, ["query", "doc", "label"], 24)
    lists = rows_of_trial({"loss": LISTWISE, "negatives": 3})
    assert (len(lists), lists[0]["labels"]) == (24, [1.0, 0.0, 0.0, 0.0])
