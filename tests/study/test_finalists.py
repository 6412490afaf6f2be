"""Finalists that are trained again: which, with which seeds, in which order, and after a kill."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ray_st.study.confirmed import judge
from ray_st.study.finalists import Repetition, finalists_of, fresh_seeds, plan_repetitions, repeating_study
from ray_st.study.journal import Journal, RecordError
from ray_st.study.objective import Objective
from ray_st.study.study import Study
from ray_st.study.trial_arguments import SpaceError
from ray_st.study.trial_record import TrialRecord

GOAL = Objective(None, ("maximize",))


def space(trial: Any) -> dict[str, Any]:
    """Conditional, with choices of any kind, a constant, and the seed itself."""
    kind = trial.suggest_categorical("kind", ["cosent", ["angle", 2]])
    if kind == "cosent":
        trial.suggest_float("scale", 5, 40, log=True)
    return {"x": trial.suggest_float("x", -1, 1, step=0.25), "seed": trial.suggest_int("seed", 1, 40), "c": 3}


def searched(folder: Path, trials: int = 12) -> Study:
    one = Study(space, GOAL, Journal(folder / "journal.jsonl"), trials, seed=3)
    while (asked := one.ask()) is not None:
        one.report(asked.number, 1, 10, [-(asked.values["x"] ** 2)], samples=80, ended=True)
        one.tell(asked.number, "PRUNED" if asked.number % 4 == 3 else "COMPLETE")
    return one


def again(folder: Path, search: Study, confirm: int, finalists: int = 3) -> tuple[Study, list[Repetition]]:
    seeds = fresh_seeds(3, confirm, [42])
    journal = Journal(folder / "again.jsonl")
    plan = plan_repetitions(search.best(len(search.records)), finalists, seeds, journal.records())
    return repeating_study(space, GOAL, journal, plan), plan


def run(study: Study, count: int) -> list[TrialRecord]:
    ran = []
    for _ in range(count):
        asked = study.ask()
        assert asked is not None
        study.report(asked.number, 1, 10, [random.Random(asked.number).random()], samples=80, ended=True)
        ran.append(study.tell(asked.number, "COMPLETE"))
    return ran


def test_all_finalists_get_the_same_fresh_seeds_seed_by_seed(tmp_path: Path) -> None:
    search = searched(tmp_path)
    study, plan = again(tmp_path, search, 2)
    finalists = finalists_of(search.best(12), 3)
    assert len(finalists) == 3
    ran = run(study, 6)
    assert study.ask() is None
    assert [one.finalist.number for one in plan] == [one.number for one in finalists] * 2
    first, second = fresh_seeds(3, 2, [42])
    assert [record.values["seed"] for record in ran] == [first] * 3 + [second] * 3
    for record, one in zip(ran, plan, strict=True):
        assert {**record.values, "seed": one.finalist.values["seed"]} == one.finalist.values
        assert record.params == one.finalist.params
        assert record.name == f"trial-{one.finalist.number}-seed-{one.seed}"


def test_finalists_differ_in_more_than_their_seeds() -> None:
    def trial(number: int, **values: Any) -> TrialRecord:
        return TrialRecord(number, values, {}, {})

    best = [trial(3, x=1, seed=7), trial(1, x=1, seed=8), trial(0, x=2, seed=7), trial(5, x=3)]
    assert [one.number for one in finalists_of(best, 2)] == [3, 0]
    assert [one.number for one in finalists_of(best, 9)] == [3, 0, 5]


def test_seeds_are_fresh_and_stay() -> None:
    five = fresh_seeds(0, 5, [])
    assert len(set(five)) == 5
    assert fresh_seeds(0, 2, []) == five[:2]
    assert fresh_seeds(1, 5, []) != five
    assert fresh_seeds(0, 4, [five[1]]) == [five[0], *five[2:5]]
    assert all(0 < seed < 2**31 for seed in five)


@pytest.mark.parametrize("killed_at", range(6))
def test_nothing_is_trained_twice_after_a_kill(tmp_path: Path, killed_at: int) -> None:
    search = searched(tmp_path)
    before, plan = again(tmp_path, search, 2)
    ran = run(before, killed_at)
    begun = before.ask()
    assert begun is not None
    before.report(begun.number, 1, 5, [0.5], samples=40, ended=False)
    after, now = again(tmp_path, search, 2)
    assert [(one.finalist.number, one.seed) for one in now] == [
        (one.finalist.number, one.seed) for one in plan
    ]
    assert after.left == 6 - killed_at
    resumed = after.ask()
    assert resumed is not None
    assert (resumed.number, resumed.values) == (begun.number, begun.values)
    after.tell(resumed.number, "COMPLETE")
    run(after, 5 - killed_at)
    assert after.ask() is None
    assert [record.values for record in after.records[:killed_at]] == [record.values for record in ran]
    found = judge(now, after.records, fresh_seeds(3, 2, [42]), True)
    assert [len(one.values) for one in found.finalists] == [2, 2, 2]


def test_more_seeds_finalists_and_trials_may_be_added(tmp_path: Path) -> None:
    search = searched(tmp_path)
    study, _ = again(tmp_path, search, 1, finalists=2)
    run(study, 2)
    study, plan = again(tmp_path, search, 2, finalists=3)
    assert study.left == 4
    order = [one.number for one in finalists_of(search.best(12), 3)]
    first, second = fresh_seeds(3, 2, [42])
    assert [(one.finalist.number, one.seed) for one in plan] == [
        *((number, first) for number in order[:2]),
        (order[2], first),
        *((number, second) for number in order),
    ]
    run(study, 4)
    more = searched(tmp_path, 40)
    study, plan = again(tmp_path, more, 2, finalists=3)
    best = [one.number for one in finalists_of(more.best(40), 3)]
    assert study.left == 2 * len(set(best) - set(order))
    run(study, study.left)
    found = judge(plan, study.records, [first, second], True)
    assert {one.number for one in found.finalists} == {*order, *best}  # none is lost
    fewer, _ = again(tmp_path, more, 1, finalists=1)
    assert fewer.left == 0


def test_a_space_that_draws_by_itself_is_refused(tmp_path: Path) -> None:
    search = searched(tmp_path)
    (best,) = search.best()

    def moody(trial: Any) -> dict[str, Any]:
        return {**space(trial), "c": random.random()}

    def other(trial: Any) -> dict[str, Any]:
        return {"y": trial.suggest_float("y", 0, 1)}

    plan = [Repetition(best, 5)]
    with pytest.raises(SpaceError, match=rf"hp_space: trial {best.number} had .* no random numbers"):
        repeating_study(moody, GOAL, Journal(tmp_path / "again.jsonl"), plan)
    with pytest.raises(SpaceError, match=rf"hp_space: trial {best.number} cannot be drawn again"):
        repeating_study(other, GOAL, Journal(tmp_path / "again.jsonl"), plan)


def test_records_of_another_search_are_refused(tmp_path: Path) -> None:
    search = searched(tmp_path)
    stranger = TrialRecord(0, {"x": 7.0, "seed": 5}, {}, {})
    with pytest.raises(RecordError, match="of no complete trial"):
        plan_repetitions(search.best(12), 3, [1], [stranger])
