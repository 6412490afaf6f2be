from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ray_st.study.journal import Journal, RecordError
from ray_st.study.objective import Objective
from ray_st.study.search_progress import describe_trial
from ray_st.study.search_settings import check_settings
from ray_st.study.study import Study
from ray_st.study.trial_record import stages
from ray_st.study.trial_table import write_table
from ray_st.study.watcher import Retention
from ray_st.training.checkpoint.lease import Lease, held
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.endings import LeaseLost


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1), "n": trial.suggest_int("n", 1, 5)}


def study(
    folder: Path, trials: int = 20, directions: tuple[str, ...] = ("maximize",), **options: Any
) -> Study:
    return Study(space, Objective(None, directions), Journal(folder / "journal.jsonl"), trials, **options)


def run(one: Study, count: int) -> list[dict[str, Any]]:
    """Runs trials one at a time: the objective is -x², each third is stopped, each seventh fails."""
    seen = []
    for _ in range(count):
        asked = one.ask()
        assert asked is not None
        seen.append(asked.values)
        one.report(asked.number, 1, 10, [-(asked.values["x"] ** 2)])
        state = "PRUNED" if asked.number % 3 == 2 else "FAIL" if asked.number % 7 == 6 else "COMPLETE"
        one.tell(asked.number, state)
    return seen


@pytest.mark.parametrize("killed_at", [1, 11, 19])
def test_a_killed_search_suggests_what_it_would_have(tmp_path: Path, killed_at: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unbroken = run(study(tmp_path / "a"), 20)
    first = run(study(tmp_path / "b"), killed_at)
    again = study(tmp_path / "b")
    assert [record.values for record in again.records] == first
    assert first + run(again, 20 - killed_at) == unbroken
    assert again.ask() is None
    assert len({tuple(values.values()) for values in unbroken}) == 20


def test_trials_that_wait_are_learnt_from_like_stopped_ones(tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    waiting, stopped = study(tmp_path), study(tmp_path / "stopped")
    for _ in range(20):
        asked, other = waiting.ask(lambda record: False), stopped.ask()
        assert waiting.waiting() == [record.number for record in waiting.records]
        assert asked is not None
        assert other is not None
        assert asked.values == other.values
        for one in (waiting, stopped):
            one.report(asked.number, 1, 10, [-(asked.values["x"] ** 2)])
        stopped.tell(other.number, "PRUNED")
    assert {trial.state for trial in waiting.study.trials} == {TrialState.RUNNING}
    assert waiting.tell(3, "COMPLETE").state == "COMPLETE"


def test_other_seeds_suggest_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert run(study(tmp_path), 1) != run(study(tmp_path / "a", seed=1), 1)


def test_running_trials_go_on_first_with_the_same_parameters(tmp_path: Path) -> None:
    before = study(tmp_path)
    run(before, 3)
    left = [before.ask(), before.ask()]
    before.report(left[0].number, 1, 5, [0.25])  # type: ignore[union-attr]
    after = study(tmp_path)
    assert after.left == 17
    again = [after.ask(), after.ask()]
    assert [(a.number, a.values) for a in again] == [(b.number, b.values) for b in left]  # type: ignore[union-attr]
    after.report(3, 1, 5, [0.25])  # known already
    after.report(3, 2, 10, [0.5])
    after.tell(3, "COMPLETE")
    after.tell(4, "FAIL", "gone")
    assert [trial.state for trial in after.study.trials[3:]] == [TrialState.COMPLETE, TrialState.FAIL]
    assert after.study.trials[3].intermediate_values == {1: 0.25, 2: 0.5}
    assert after.ask().number == 5  # type: ignore[union-attr]


def test_the_study_knows_how_trials_ended(tmp_path: Path) -> None:
    one = study(tmp_path)
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        asked = one.ask()
        assert asked is not None
        one.report(asked.number, 1, 10, [0.5])
        one.tell(asked.number, state)
    nan = one.ask()
    assert nan is not None
    one.report(nan.number, 1, 10, [float("nan")])
    assert one.tell(nan.number, "COMPLETE").reason == "the objective is [nan]"
    states = [trial.state.name for trial in one.study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert one.study.trials[1].intermediate_values == {1: 0.5}
    assert [record.state for record in Journal(tmp_path / "journal.jsonl").records()] == states


def test_trials_can_be_compared_by_their_best_evaluation(tmp_path: Path) -> None:
    one = Study(space, Objective(None, ("maximize",), "all"), Journal(tmp_path / "journal.jsonl"), 3)
    for values in ([0.2, 0.9, 0.5], [0.3, 0.6, 0.8]):
        asked = one.ask()
        assert asked is not None
        for evaluation, value in enumerate(values, 1):
            one.report(asked.number, evaluation, 10 * evaluation, [value])
        one.tell(asked.number, "COMPLETE")
    again = Study(space, Objective(None, ("maximize",), "all"), Journal(tmp_path / "journal.jsonl"), 3)
    for known in (one, again):
        assert [record.objectives for record in known.best(2)] == [(0.9,), (0.8,)]
        assert [trial.value for trial in known.study.trials] == [0.9, 0.8]
        assert known.study.trials[0].intermediate_values == {1: 0.2, 2: 0.9, 3: 0.5}
    assert [event["objectives"][0] for event in again.records[0].history] == [0.2, 0.9, 0.5]


def test_points_come_first_also_after_a_kill(tmp_path: Path) -> None:
    points = [{"x": 0.1, "n": 1}, {"x": 0.2, "n": 2}, {"x": 0.3, "n": 3}]
    seen = run(study(tmp_path, points=points), 2)
    seen += run(study(tmp_path, points=points), 2)
    assert seen[:3] == points
    assert seen[3] not in points


@pytest.mark.parametrize(("trials", "at_random"), [(8, 4), (20, 5), (100, 11)])
def test_it_learns_from_the_first_quarter_on(tmp_path: Path, trials: int, at_random: int) -> None:
    # Of eleven the seventh fails; the sampler does not count it.
    (tmp_path / "random").mkdir()
    drawn = run(study(tmp_path / "random", sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed)), 12)
    seen = run(study(tmp_path, trials), at_random + 1)
    assert seen[:at_random] == drawn[:at_random]
    assert seen[at_random] != drawn[at_random]


def test_any_sampler_and_one_that_is_made_from_a_seed(tmp_path: Path) -> None:
    grid = optuna.samplers.GridSampler({"x": [0.0, 0.5], "n": [1]}, seed=0)
    assert sorted(values["x"] for values in run(study(tmp_path, sampler=grid), 2)) == [0.0, 0.5]
    (tmp_path / "b").mkdir()
    make = lambda seed: optuna.samplers.RandomSampler(seed=seed)  # noqa: E731
    seen = run(study(tmp_path / "b", sampler=make), 2) + run(study(tmp_path / "b", sampler=make), 1)
    (tmp_path / "c").mkdir()
    assert run(study(tmp_path / "c", sampler=make), 3) == seen


def test_a_database_keeps_no_running_trial(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    before = study(tmp_path, storage=storage, name="s")
    run(before, 2)
    before.ask()
    after = study(tmp_path, storage=storage, name="s")
    run(after, 2)
    assert [trial.state.name for trial in after.study.trials] == [
        "COMPLETE",
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
    ]


def test_a_database_with_the_trials_of_another_search_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    run(study(tmp_path, storage=storage, name="s", search_id="first"), 2)
    assert len(study(tmp_path, storage=storage, name="s", search_id="first").study.trials) == 2
    (tmp_path / "new").mkdir()
    for search_id in ("second", ""):
        with pytest.raises(RecordError, match="study 's' holds 2 trials of another search"):
            study(tmp_path / "new", storage=storage, name="s", search_id=search_id)
    study(tmp_path / "new", storage=storage, name="t", search_id="second")


def test_several_objectives(tmp_path: Path) -> None:
    one = study(tmp_path, directions=("maximize", "minimize"))
    for values in ([1.0, 5.0], [2.0, 5.0], [1.0, 1.0]):
        asked = one.ask()
        assert asked is not None
        one.report(asked.number, 1, 10, values)
        one.tell(asked.number, "COMPLETE")
    assert [record.number for record in one.best()] == [1, 2]
    assert [trial.number for trial in one.study.best_trials] == [1, 2]


def test_several_objectives_with_trials_that_were_stopped(tmp_path: Path) -> None:
    one = study(tmp_path, directions=("maximize", "minimize"))
    for number in range(8):
        asked = one.ask()
        assert asked is not None
        one.report(number, 1, 10, [asked.values["x"], asked.values["n"]])
        one.tell(number, "PRUNED" if number % 2 else "COMPLETE")
    assert all(record.state == "COMPLETE" for record in one.best())
    again = study(tmp_path, directions=("maximize", "minimize"))
    assert again.ask().values == one.ask().values  # type: ignore[union-attr]


def test_an_earlier_search_is_learnt_from(tmp_path: Path) -> None:
    earlier = study(tmp_path)
    run(earlier, 12)
    (tmp_path / "b").mkdir()
    later = study(tmp_path / "b", earlier=earlier.records)
    assert len(later.study.trials) == 12
    assert run(later, 1) != run(_fresh(tmp_path), 1)


def _fresh(tmp_path: Path) -> Study:
    (tmp_path / "c").mkdir()
    return study(tmp_path / "c")


def test_a_copy_is_told_of_everywhere(tmp_path: Path) -> None:
    before = study(tmp_path, trials=3)
    begun = [before.ask().values for _ in range(3)]  # type: ignore[union-attr]
    for number in range(3):
        before.report(number, 1, 10, [float(number)], ended=False)
    before.copied(0, 1, 2, 10, {"x": 0.5, "n": 3})
    after = study(tmp_path, trials=3)  # its driver was killed
    for one in (before, after):
        assert (one.records[0].values, one.records[0].params) == ({"x": 0.5, "n": 3}, begun[0])
        assert one.study.trials[0].params == begun[0]
        change = one.study.trials[0].user_attrs["ray_st:changes"][0]
        assert (change["source"], change["before"], change["values"]) == (2, begun[0], {"x": 0.5, "n": 3})
    assert after.ask(lambda record: record.number == 2).number == 2  # type: ignore[union-attr]
    assert after.ask(lambda record: False) is None
    after.copied(1, 2, 0, 20, {"x": 0.25, "n": 3})
    assert stages(after.records, 1) == [
        (0, 2, begun[2]),
        (1, 0, {"x": 0.5, "n": 3}),
        (2, 1, {"x": 0.25, "n": 3}),
    ]
    assert stages(after.records, 2) == [(0, 2, begun[2])]
    write_table(tmp_path / "trials.csv", after.records, 1)
    with (tmp_path / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["changes"].startswith("copied trial 2 after evaluation 1: x ")
    assert float(rows[0]["x"]) == 0.5
    assert rows[2]["changes"] == ""


# ---- records ----


ASKED = '{"event": "asked", "number": 0, "time": 1.0, "values": {}, "params": {}, "distributions": {}, "name": ""}'
TOLD = '{"event": "told", "number": 0, "time": 2, "state": "FAIL", "reason": ""}'


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    told = journal.append(event="told", number=0, state="FAIL", reason="")
    with (tmp_path / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"event": "to\xff')
    assert journal.read() == [told]
    journal.append(event="told", number=1, state="FAIL", reason="")
    assert len(journal.read()) == 2
    (tmp_path / "journal.jsonl").write_text("torn")
    assert journal.read() == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["not json"], "line 1 is not an event of a search .Expecting value"),
        ([ASKED, "17"], "line 2 .*found 17"),
        ([ASKED, "null"], "line 2 .*found null"),
        ([ASKED, "{}"], "line 2 .*unknown event None"),
        ([ASKED, '{"event": ["told"]}'], "line 2 .*unknown event"),
        ([ASKED, '{"event": "told", "number": "0", "time": 1}'], 'told: number is "0"'),
        ([ASKED, '{"event": "told", "number": 0, "time": 1, "state": null}'], "told: state is null"),
        ([ASKED, TOLD.replace("FAIL", "GONE")], 'told: state is "GONE"'),
        ([ASKED, '{"event": "reported", "number": 0, "time": 1, "evaluation": 1}'], "reported: step is null"),
        ([TOLD], "told: there is no trial 0"),
        ([ASKED, TOLD.replace('"number": 0', '"number": -1')], "told: there is no trial -1"),
        ([ASKED, ASKED], "line 2 .*trial 0 was asked for, expected 1"),  # two searches wrote here
        ([ASKED, TOLD, TOLD], "line 3 .*told: trial 0 had ended"),
        ([ASKED.replace("0,", "1,", 1)], "trial 1 was asked for, expected 0"),
        ([ASKED, "\udcff"], "line 2"),
        ([ASKED, ""], "line 2"),
    ],
)
def test_a_damaged_journal_is_refused_by_the_line(lines: list[str], said: str, tmp_path: Path) -> None:
    text = "\n".join([*lines, ASKED.replace('"number": 0', '"number": 1'), ""])
    (tmp_path / "journal.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=rf"journal.jsonl is damaged: .*{said}.*Delete the line"):
        study(tmp_path)


def test_a_journal_belongs_to_the_one_who_holds_the_folder(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path))
    with held(store) as lease:
        journal = Journal(tmp_path / "journal.jsonl", lease.fence.check)
        one = Study(space, Objective(None, ("maximize",)), journal, 3)
        one.ask()
        lease_of_another = Lease(store)  # this one was stopped, and is given up
        lease_of_another.take(0.0)
        with pytest.raises(LeaseLost, match="was taken by process"):
            one.report(0, 1, 10, [0.5])
        assert [event["event"] for event in journal.read()] == ["asked"]


def test_another_space_under_the_same_name_is_refused(tmp_path: Path) -> None:
    check_settings(tmp_path, {"space": {"x": [0, 1]}, "seed": 1})
    check_settings(tmp_path, {"space": {"x": (0, 1)}, "seed": 1})
    with pytest.raises(RecordError, match=r"space was .*0, 1.*, now .*0, 2"):
        check_settings(tmp_path, {"space": {"x": [0, 2]}, "seed": 1})


def test_the_table_and_the_line_of_a_trial(tmp_path: Path) -> None:
    one = study(tmp_path)
    run(one, 3)
    write_table(tmp_path / "trials.csv", one.records, 1)
    with (tmp_path / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert float(rows[0]["x"]) == one.records[0].values["x"]
    assert "stopped early at step 10" in describe_trial(one.records[2])


def test_checkpoints_of_all_but_the_best_go(tmp_path: Path) -> None:
    class Store:
        def __init__(self) -> None:
            self.kept = [5, 10]

        def steps(self) -> list[int]:
            return list(self.kept)

        def delete(self, step: int) -> None:
            self.kept.remove(step)

    one = study(tmp_path)
    run(one, 5)
    one.ask()
    best = {record.number for record in one.best(2)}
    kept = [number in {*best, 5} for number in range(6)]
    stores = [Store() for _ in range(6)]
    Retention(one, stores.__getitem__, 2).tidy()
    assert [bool(store.kept) for store in stores] == kept
    # Where the journal is copied, they stay until the copy says that their trials have ended.
    stores, copy = [Store() for _ in range(6)], SimpleNamespace(copied=99, size=lambda: 100)
    copied: Any = copy
    retention = Retention(one, stores.__getitem__, 2, copied)
    retention.tidy()
    assert all(store.kept for store in stores)
    copy.copied = 100
    retention.tidy()
    assert [bool(store.kept) for store in stores] == kept
