"""A storage that goes away while a search runs: the search waits, loses nothing, and goes on."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.patient_storage import PatientStorage, StorageLost, patient
from ray_st.study.study import Study


class Time:
    """A clock that only sleeping moves.

    Args:
        at: What happens at a moment.
    """

    def __init__(self, at: dict[float, Callable[[], object]] | None = None) -> None:
        self.now, self.slept, self._at = 0.0, [], dict(at or {})  # type: ignore[var-annotated]

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for moment in [moment for moment in self._at if moment <= self.now]:
            self._at.pop(moment)()


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1)}


def study(folder: Path, storage: Any, trials: int = 6, **options: Any) -> Study:
    return Study(
        space,
        Objective(None, ("maximize",)),
        Journal(folder / "journal.jsonl"),
        trials,
        storage=storage,
        name=None if storage is None else "s",
        **options,
    )


def run(one: Study, count: int) -> list[dict[str, Any]]:
    seen = []
    for _ in range(count):
        asked = one.ask()
        assert asked is not None
        seen.append(asked.values)
        one.report(asked.number, 1, 10, [asked.values["x"]])
        one.tell(asked.number, "COMPLETE")
    return seen


class Flaky:
    """A storage whose calls fail, some of them after they were carried out.

    Args:
        inner: The storage.
        fails: Called with the number of a call, from 0; whether it fails: "before" or "after".
    """

    def __init__(self, inner: Any, fails: Callable[[int], str | None]) -> None:
        self._inner, self._fails, self.calls = inner, fails, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            fails = self._fails(self.calls)
            self.calls += 1
            if fails == "before":
                raise StorageInternalError("server closed the connection")
            result = found(*args, **kwargs)
            if fails == "after":
                raise ConnectionResetError("connection reset by peer")
            return result

        return call if callable(found) else found


def test_a_locked_database_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.db"
    inner = optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 0.01}})
    begun = study(tmp_path, inner)
    seen = run(begun, 2)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    time = Time({60.0: other.rollback})
    waits = PatientStorage(begun.study._storage._inner, clock=time.clock, sleep=time.sleep)
    monkeypatch.setattr(begun.study, "_storage", waits)
    capsys.readouterr()
    seen += run(begun, 4)
    other.close()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "no answer (OperationalError: database is locked); the search waits up to 600 s" in said[0]
    assert said[1] == f"storage: it answers again after {time.now:.0f} s; the search goes on"
    assert 60 <= time.now < 80
    assert max(time.slept) == 15
    assert [trial.state for trial in begun.study.trials] == [TrialState.COMPLETE] * 6
    (tmp_path / "b").mkdir()
    assert seen == run(study(tmp_path / "b", None), 6)  # nothing was lost


@pytest.mark.parametrize("way", ["before", "after"])
def test_a_server_that_drops_each_third_call(way: str, tmp_path: Path) -> None:
    time = Time()
    flaky = Flaky(optuna.storages.InMemoryStorage(), lambda call: way if call % 3 == 2 else None)
    one = study(tmp_path, PatientStorage(flaky, clock=time.clock, sleep=time.sleep), points=[{"x": 0.5}])  # type: ignore[arg-type]
    seen = run(one, 6)
    (tmp_path / "b").mkdir()
    assert seen == run(study(tmp_path / "b", None, points=[{"x": 0.5}]), 6)
    assert [record.state for record in one.records] == ["COMPLETE"] * 6
    numbered = {trial.user_attrs.get("ray_st:number"): trial for trial in one.study.trials}
    for record in one.records:
        assert numbered[record.number].state == TrialState.COMPLETE
        assert numbered[record.number].value == record.objectives[0]
    # A trial that was made twice is closed when the search is continued.
    again = study(tmp_path, PatientStorage(flaky._inner))
    assert not [trial for trial in again.study.trials if trial.state == TrialState.RUNNING]


def test_after_a_while_it_ends_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time = Time()
    away = False
    flaky = Flaky(optuna.storages.InMemoryStorage(), lambda call: "before" if away else None)
    one = study(tmp_path, PatientStorage(flaky, 100, time.clock, time.sleep))  # type: ignore[arg-type]
    run(one, 2)
    asked = one.ask()
    assert asked is not None
    away = True
    with pytest.raises(StorageLost, match=r"no answer for 1\d\d s .*closed the connection.*under its name"):
        one.report(2, 1, 10, [0.25])
    waited = time.now
    with pytest.raises(StorageLost, match="no answer for 0 s"):
        one.tell(2, "PRUNED")  # at once
    assert 100 <= waited == time.now < 130
    assert capsys.readouterr().out.count("no answer") == 1
    away = False
    again = study(tmp_path, PatientStorage(flaky))  # type: ignore[arg-type]
    assert again.study.trials[2].intermediate_values == {1: 0.25}
    assert again.study.trials[2].state == TrialState.PRUNED
    assert [record.state for record in again.records] == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_other_errors_are_not_waited_for() -> None:
    inner = optuna.storages.InMemoryStorage()
    waits = PatientStorage(inner, sleep=lambda seconds: pytest.fail("it waits"))
    with pytest.raises(KeyError):
        waits.get_trial(77)
    number = waits.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    trial = waits.create_new_trial(number)
    waits.set_trial_state_values(trial, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        waits.set_trial_state_values(trial, TrialState.COMPLETE)
    assert pickle.loads(pickle.dumps(PatientStorage(inner))).get_n_trials(number) == 1
    with pytest.raises(AttributeError):
        _ = waits.nothing


def test_what_is_in_memory_needs_no_patience(tmp_path: Path) -> None:
    memory = optuna.storages.InMemoryStorage()
    assert patient(None) is None
    assert patient(memory) is memory
    assert isinstance(patient(f"sqlite:///{tmp_path / 's.db'}"), PatientStorage)
    with pytest.raises(Exception, match="unable to open database file"):
        patient(f"sqlite:///{tmp_path / 'missing' / 's.db'}")  # at once: it may be misspelled
