"""Which of several finalists wins, from values that are made up."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean, stdev
from typing import Any

import pytest

from ray_st.study.confirmed import Confirmed, Finalist, judge
from ray_st.study.finalists import Repetition
from ray_st.study.trial_record import TrialRecord

SEEDS = (11, 12, 13)
Values = dict[int, list[float | None]]


def trial(number: int, values: dict[str, Any], objective: float, state: str = "COMPLETE") -> TrialRecord:
    return TrialRecord(number, values, dict(values), {}, state=state, objectives=(objective,))


def confirmed(values: Values, maximize: bool = True, seconds: dict[int, float] | None = None) -> Confirmed:
    """Finalists by number with a value for each seed; None where the training failed."""
    plan, records = [], []
    for place, seed in enumerate(SEEDS):
        for number, several in values.items():
            if place >= len(several):
                continue
            plan.append(Repetition(trial(number, {"x": number}, 0.9), seed))
            value = several[place]
            state = "FAIL" if value is None else "COMPLETE"
            record = trial(len(records), {"x": number, "seed": seed}, value or 0.0, state)
            record.reason = "" if value is not None else "it broke"
            record.spans = [[0.0, (seconds or {}).get(number, 10.0)]]
            record.history = [{"evaluation": 1, "step": 5, "samples": 80, "ended": True}]
            records.append(record)
    return judge(plan, records, SEEDS, maximize)


def order(found: Confirmed) -> list[int]:
    return [one.number for one in found.finalists]


def test_the_figures_of_a_finalist() -> None:
    (one,) = confirmed({4: [0.8, 0.7, 0.9]}).finalists
    assert (one.number, one.searched, one.low, one.high) == (4, 0.9, 0.7, 0.9)
    assert one.mean == pytest.approx(0.8)
    assert one.deviation == pytest.approx(0.1)
    assert one.optimism == pytest.approx(0.1)
    low, high = one.expected  # type: ignore[misc]
    assert (low + high) / 2 == pytest.approx(0.8)
    assert (one.rows, one.seconds) == (80, 10)
    assert one.runs == {11: 0, 12: 1, 13: 2}
    assert one.typical_runs == [0, 1, 2]  # 0.8 is the mean


def test_optimism_is_a_loss_that_was_too_small() -> None:
    (one,) = confirmed({4: [1.0, 1.2, 1.1]}, maximize=False).finalists
    assert one.optimism == pytest.approx(0.2)
    assert one.score == pytest.approx(-1.1)


def test_a_single_seed_says_nothing_about_the_spread() -> None:
    (one,) = confirmed({4: [0.8]}).finalists
    assert (one.mean, one.deviation, one.expected) == (0.8, None, None)


@pytest.mark.parametrize("maximize", [True, False])
def test_means_decide(maximize: bool) -> None:
    found = confirmed({1: [0.3, 0.31, 0.32], 2: [0.5, 0.51, 0.52], 3: [0.7, 0.71, 0.72]}, maximize)
    assert order(found) == ([3, 2, 1] if maximize else [1, 2, 3])
    assert found.winner is found.finalists[0]
    assert (found.runs, found.rows, found.seconds) == (9, 720, 90)


def test_a_tie_goes_to_the_cheaper() -> None:
    values: Values = {1: [0.80, 0.70, 0.75], 2: [0.79, 0.71, 0.74], 3: [0.60, 0.50, 0.55]}
    slow = confirmed(values, seconds={1: 20, 2: 10, 3: 1})
    assert order(slow) == [1, 2, 3]
    assert slow.winner is not None
    assert slow.winner.number == 2
    fast = confirmed(values, seconds={1: 10, 2: 20, 3: 1})
    assert fast.winner is fast.finalists[0]


def test_seeds_are_compared_in_pairs() -> None:
    # The spread over seeds is far larger than the difference, which is the same for each seed.
    values: Values = {1: [0.9, 0.5, 0.1], 2: [0.89, 0.489, 0.088]}
    found = confirmed(values, seconds={1: 20, 2: 10})
    assert found.winner is found.finalists[0]


def test_equal_values_of_a_single_seed_are_a_tie() -> None:
    found = confirmed({1: [0.8], 2: [0.8], 3: [0.7]}, seconds={1: 30, 2: 20, 3: 10})
    assert found.winner is not None
    assert found.winner.number == 2


def test_a_failed_training_ranks_last() -> None:
    found = confirmed({1: [0.9, None, 0.9], 2: [0.5, 0.5, 0.5], 3: [None, None, None], 4: [0.6, 0.6, 0.6]})
    assert order(found) == [4, 2, 1, 3]
    assert found.winner is found.finalists[0]
    assert found.finalists[2].failures == {12: "it broke"}
    assert math.isnan(found.finalists[3].mean)
    assert found.failures == ["it broke"]
    assert found.runs == 12


def test_where_all_lack_a_seed_the_best_of_the_fullest_wins() -> None:
    found = confirmed({1: [0.9, None, None], 2: [0.5, 0.5, None]})
    assert found.winner is not None
    assert found.winner.number == 2


def test_a_training_that_violates_a_constraint_counts_as_failed() -> None:
    def one(violation: float, seed: int) -> TrialRecord:
        record = trial(seed - 11, {"x": 1, "seed": seed}, 0.8)
        record.violations = {"eval_loss <= 0.5": violation}
        record.history = [{"step": 5, "samples": 80, "metrics": {"eval_loss": 0.5 + violation}}]
        return record

    finalist = trial(1, {"x": 1}, 0.9)
    plan = [Repetition(finalist, seed) for seed in SEEDS]
    (found,) = judge(plan, [one(-0.1, 11), one(0.1, 12), one(0.0, 13)], SEEDS, True).finalists
    assert list(found.values) == [11, 13]
    assert found.failures == {12: "eval_loss <= 0.5 (it has 0.6)"}


def test_nobody_wins_where_all_failed() -> None:
    found = confirmed({1: [None, None, None]})
    assert (found.winner, found.failures) == (None, ["it broke"])


def test_one_that_was_trained_with_fewer_seeds_than_asked_for_ranks_behind() -> None:
    found = confirmed({1: [0.9, 0.9], 2: [0.5, 0.5, 0.5]})  # 1 was a finalist before trials were added
    assert order(found) == [2, 1]


def test_the_rule_by_brute_force() -> None:
    chance = random.Random(0)
    for _ in range(300):
        values: Values = {n: [round(chance.random(), 1) for _ in SEEDS] for n in range(4)}
        seconds = {n: chance.choice([10.0, 20.0, 30.0]) for n in values}
        found = confirmed(values, seconds=seconds)
        best = max(values, key=lambda n: (round(fmean(values[n]), 9), -n))  # type: ignore[type-var]
        able = []
        for n in values:
            gaps = [a - b for a, b in zip(values[best], values[n], strict=True)]  # type: ignore[operator]
            if n == best or fmean(gaps) <= stdev(gaps) / 3**0.5 + 1e-12:
                able.append(n)
        assert found.winner is not None
        assert seconds[found.winner.number] == min(seconds[n] for n in able)
        for one, other in itertools.pairwise(found.finalists):
            assert one.mean >= other.mean


def test_one_seed_more_changes_the_winner_only_with_reason() -> None:
    one = Finalist(0, 0.9, {1: 0.8}, {}, {1: 0}, 1, 1, True)
    same = Finalist(1, 0.9, {2: 0.8}, {}, {2: 1}, 1, 1, True)
    assert one.is_no_better_than(same)  # no seed in common, nothing known against it
