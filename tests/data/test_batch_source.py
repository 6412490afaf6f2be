from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ray_st.data.batch_source import Planner
from ray_st.data.keys import Keys
from ray_st.data.plan import Plan
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder

EPOCHS = 6


def duplicated(drop_last: bool) -> NoDuplicatesBatchSampler:
    """A grid of values, tight enough that epochs differ in their number of batches."""
    grid = np.array([(i, 100 + j) for i in range(12) for j in range(12)], dtype=np.uint64)
    return NoDuplicatesBatchSampler(Keys(grid), 8, drop_last)


def lengths(sampler: Any) -> set[int]:
    found = set()
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        found.add(len(list(sampler)))
    return found


def test_all_epochs_have_the_steps_of_the_longest_and_all_rows() -> None:
    planner = Planner(duplicated(False), EPOCHS)
    assert len(lengths(duplicated(False))) > 1
    assert planner.steps == max(lengths(duplicated(False)))
    for epoch in range(EPOCHS):
        plan = planner.plan(epoch)
        assert len(plan) == planner.steps
        assert sorted(plan.rows.tolist()) == list(range(144))


def test_with_drop_last_every_batch_of_every_epoch_is_full() -> None:
    planner = Planner(duplicated(True), EPOCHS)
    assert len(lengths(duplicated(True))) > 1
    assert planner.steps == min(lengths(duplicated(True)))
    for epoch in range(EPOCHS):
        assert planner.plan(epoch).sizes().tolist() == [8] * planner.steps


def test_an_epoch_has_one_plan_in_whatever_order_it_is_asked() -> None:
    ahead, random = Planner(duplicated(False), EPOCHS), Planner(duplicated(False), EPOCHS)
    plans = [ahead.plan(epoch).rows.tolist() for epoch in range(EPOCHS)]
    assert [random.plan(epoch).rows.tolist() for epoch in (4, 0, 4)] == [plans[4], plans[0], plans[4]]
    assert plans[0] != plans[1]


@pytest.mark.parametrize(
    "sampler",
    [
        DefaultBatchSampler(RandomOrder(103), 10),
        DefaultBatchSampler(RandomOrder(103), 10, drop_last=True),
        NoDuplicatesBatchSampler(Keys(np.arange(103, dtype=np.uint64)[:, None]), 10),
        NoDuplicatesBatchSampler(Keys(np.arange(103, dtype=np.uint64)[:, None]), 10, drop_last=True),
    ],
)
def test_epochs_are_not_planned_ahead_where_all_have_the_same_steps(
    sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    plan = type(sampler).plan

    def counted(self: Any) -> Plan:
        drawn.append(self.epoch)
        return plan(self)

    monkeypatch.setattr(type(sampler), "plan", counted)
    planner = Planner(sampler, 10**9)
    assert drawn == []
    assert len(planner.plan(7)) == planner.steps == (10 if sampler.drop_last else 11)
    assert planner.plan(7).rows.tolist() == planner.plan(7).rows.tolist()
    assert drawn == [7]


def test_any_iterable_of_lists_is_a_sampler() -> None:
    planner = Planner([[0, 1], [2]], 3)
    assert planner.steps == 2
    assert planner.plan(2).sizes().tolist() == [2, 1]


def test_a_sampler_of_ones_own_hears_of_epochs() -> None:
    class Growing:
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[list[int]]:
            rows = list(range(6))
            size = 3 - self.epoch
            yield from (rows[start : start + size] for start in range(0, 6, size))

    planner = Planner(Growing(), 3)
    assert planner.steps == 6
    assert [len(planner.plan(epoch)) for epoch in range(3)] == [6, 6, 6]


@pytest.mark.parametrize("epochs", [0, 1])
def test_at_least_one_epoch_is_planned(epochs: int) -> None:
    assert Planner([[0]], epochs).steps == 1
