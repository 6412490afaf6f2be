"""What hands out trials when the storage stops answering, without a cluster."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from ray import cloudpickle
from ray.tune.search import Searcher

from ray_st.runtime.tune.search_stop import SearchStop
from ray_st.runtime.tune.study_searcher import StudySearcher
from ray_st.runtime.tune.trial_resources import Need
from ray_st.runtime.tune.tuner import SearchRun
from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.patient_storage import PatientStorage
from ray_st.study.search_options import as_options
from ray_st.study.study import Study


class Away:
    """A storage that can be taken away.

    Args:
        inner: The storage.
    """

    def __init__(self, inner: Any) -> None:
        self._inner, self.away = inner, False

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.away:
                raise StorageInternalError("the server is gone")
            return getattr(self._inner, name)(*args, **kwargs)

        return call


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1)}


def test_what_ray_tune_pickles_holds_no_storage(tmp_path: Path) -> None:
    away = Away(optuna.storages.InMemoryStorage())
    away.lock = threading.Lock()  # type: ignore[attr-defined]
    storage: Any = PatientStorage(away)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot pickle"):
        cloudpickle.dumps(storage)
    objective = Objective(None, ("maximize", "minimize"))
    study = Study(space, objective, Journal(tmp_path / "journal.jsonl"), 4, storage=storage, name="s")
    kit: Any = SimpleNamespace(must_checkpoint=None, objective=objective)
    nobody: Any = None
    options = as_options({"scheduler": "asha"}, 2)
    need, stop = Need({"CPU": 1}), SearchStop()
    run = SearchRun(study, kit, options, tmp_path, True, need, None, nobody, stop, "s")
    for part in run._scheduled():
        assert type(cloudpickle.loads(cloudpickle.dumps(part))) is type(part)


def test_running_trials_are_recorded_to_their_end_and_no_more_start(tmp_path: Path) -> None:
    away = Away(optuna.storages.InMemoryStorage())

    def opened(storage: Any) -> Study:
        journal = Journal(tmp_path / "journal.jsonl")
        return Study(space, Objective(None, ("maximize",)), journal, 4, storage=storage, name="s")

    storage = PatientStorage(away, 0, sleep=lambda seconds: None)  # type: ignore[arg-type]
    watcher: Any = SimpleNamespace(reported=lambda: None, ended=lambda record: None)
    searcher = StudySearcher(opened(storage), lambda: 2, watcher, SearchStop())
    assert [searcher.suggest(name)["number"] for name in "ab"] == [0, 1]
    away.away = True

    def report(evaluation: int, ended: bool) -> dict[str, Any]:
        facts = {"evaluation": evaluation, "step": 5, "ended": ended, "samples": 8, "seconds_here": 1.0}
        return {**facts, "objective": 0.5, "objectives": [0.5], "metrics/eval_x": 0.5}

    searcher.on_trial_result("a", report(1, False))
    searcher.on_trial_complete("a", report(2, True))
    searcher.on_trial_result("b", report(1, False))
    assert searcher.suggest("c") == Searcher.FINISHED
    assert searcher.lost is not None
    assert "the server is gone" in str(searcher.lost)
    searcher.on_trial_complete("b", report(2, True))
    records = Journal(tmp_path / "journal.jsonl").records()
    assert [(record.state, record.evaluations) for record in records] == [("COMPLETE", 2)] * 2
    away.away = False
    again = opened(storage)
    assert [trial.intermediate_values for trial in again.study.trials] == [{1: 0.5, 2: 0.5}] * 2
    assert [trial.value for trial in again.study.trials] == [0.5, 0.5]
    assert again.left == 2
