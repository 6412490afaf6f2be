"""Which checkpoints of finalists are kept, with stores that are lists of steps."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_st.study.confirmed import judge
from ray_st.study.finalists import plan_repetitions, repeating_study
from ray_st.study.journal import Journal
from ray_st.study.kept_weights import RetentionOfFinalists, Saving, step_of_value
from ray_st.study.objective import Objective
from ray_st.study.trial_record import TrialRecord

GOAL = Objective(None, ("maximize",))


class Steps:
    """A store of checkpoints."""

    def __init__(self) -> None:
        self.there: list[int] = []

    def steps(self) -> list[int]:
        return list(self.there)

    def delete(self, step: int) -> None:
        self.there.remove(step)


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_int("x", 0, 9)}


FINALISTS = [
    TrialRecord(x, {"x": x}, {"x": x}, {}, state="COMPLETE", objectives=(1.0 - x / 10,)) for x in range(3)
]


class Confirming:
    """Trains finalists again, with values by finalist and place of the seed; None for a failure."""

    def __init__(self, folder: Path, keep: int = 1, copy: Any = None) -> None:
        self.folder, self.keep, self.copy = folder, keep, copy
        self.stores: dict[int, Steps] = defaultdict(Steps)
        self.there: list[list[int]] = []

    def run(self, values: dict[int, list[float | None]]) -> int | None:
        seeds = list(range(1, 1 + max(map(len, values.values()))))
        journal = Journal(self.folder / "journal.jsonl")
        plan = plan_repetitions(FINALISTS, len(values), seeds, journal.records())
        study = repeating_study(space, GOAL, journal, plan)

        def result() -> Any:
            return judge(plan, study.records, seeds, True)

        retention = RetentionOfFinalists(
            study, self.stores.__getitem__, self.keep, lambda record: record.step, result, self.copy
        )
        self.tidy = retention.tidy
        while (record := study.ask()) is not None:
            value = values[record.values["x"]][record.values["seed"] - 1]
            study.report(record.number, 1, 10, [value or 0.0], ended=True)
            self.stores[record.number].there = [5, 10]
            study.tell(record.number, "FAIL" if value is None else "COMPLETE")
            retention.tidy()
            self.there.append(self.kept())
        winner = result().winner
        return None if winner is None else winner.number

    def kept(self) -> list[int]:
        assert self.copy or all(set(store.there) <= {10} for store in self.stores.values())
        return sorted(number for number, store in self.stores.items() if store.there)


def test_all_are_kept_until_the_winner_is_known(tmp_path: Path) -> None:
    one = Confirming(tmp_path)
    assert one.run({0: [0.5, 0.7, 0.6], 1: [0.3, 0.4, 0.5]}) == 0
    assert one.there == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [4]]  # 0.6 is the mean


def test_failed_trainings_keep_nothing(tmp_path: Path) -> None:
    one = Confirming(tmp_path)
    assert one.run({0: [0.9, None], 1: [0.3, 0.4]}) == 1
    assert one.there == [[0], [0, 1], [0, 1], [1]]


def test_what_the_copy_of_the_journal_does_not_know_to_have_ended_is_kept(tmp_path: Path) -> None:
    copy = SimpleNamespace(copied=99, size=lambda: 100)
    one = Confirming(tmp_path, copy=copy)
    assert one.run({0: [0.5], 1: [0.9]}) == 1
    assert [store.there for store in one.stores.values()] == [[5, 10]] * 2
    copy.copied = 100
    one.tidy()
    assert [store.there for store in one.stores.values()] == [[], [10]]


@pytest.mark.parametrize(("keep", "kept"), [(0, []), (1, [0]), (2, [0, 1]), (5, [0, 1, 2])])
def test_as_many_finalists_keep_weights_as_is_asked_for(keep: int, kept: list[int], tmp_path: Path) -> None:
    one = Confirming(tmp_path, keep)
    one.run({0: [0.9], 1: [0.5], 2: [0.1]})
    assert one.kept() == kept


def test_weights_that_are_left_are_kept_when_seeds_are_added(tmp_path: Path) -> None:
    one = Confirming(tmp_path)
    assert one.run({0: [0.6], 1: [0.5]}) == 0
    assert one.kept() == [0]  # those of trial 1 are gone
    # Now 1 wins; its most typical training is the one whose weights are gone.
    assert one.run({0: [0.6, 0.1, 0.1], 1: [0.5, 0.4, 0.59]}) == 1
    assert one.kept() == [5]


@pytest.mark.parametrize(
    ("scope", "maximize", "step"),
    [("last", True, 30), ("avg", True, 30), ("all", True, 20), ("all", False, 10)],
)
def test_the_step_of_a_value(scope: str, maximize: bool, step: int) -> None:
    history = [{"step": 10 * place, "objectives": [v]} for place, v in enumerate([0.1, 0.9, 0.5], 1)]
    record = TrialRecord(0, {}, {}, {}, history=history)
    assert step_of_value(record, scope, maximize) == step


def test_what_is_saved() -> None:
    assert [Saving.of(scope) for scope in ("last", "avg", "all")] == [
        Saving.AT_END,
        Saving.AT_END,
        Saving.ALWAYS,
    ]
    assert [Saving.NEVER.after(last) for last in (False, True)] == [False, False]
    assert [Saving.AT_END.after(last) for last in (False, True)] == [False, True]
    assert [Saving.ALWAYS.after(last) for last in (False, True)] == [True, True]
