from __future__ import annotations

import numpy as np
import pytest

from ray_st.data.plan import Plan
from ray_st.world import World


def plan_of(*sizes: int) -> Plan:
    rows = np.random.default_rng(0).permutation(sum(sizes))
    return Plan.of_sizes(rows, np.array(sizes, dtype=np.int64))


def batches(plan: Plan) -> list[list[int]]:
    return [plan.batch(step).tolist() for step in range(len(plan))]


@pytest.mark.parametrize("size", range(1, 9))
def test_cuts_of_all_ranks_are_the_batch_in_order(size: int) -> None:
    plan = plan_of(16, 16, 9, 3, 1)
    for step, batch in enumerate(batches(plan)):
        cuts = [plan.cut(step, World(rank, size)).tolist() for rank in range(size)]
        assert [row for cut in cuts for row in cut] == batch
        assert [len(cut) for cut in cuts] == World(0, size).shares(len(batch))


@pytest.mark.parametrize("steps", range(4, 30))
def test_stretching_keeps_rows_and_their_order(steps: int) -> None:
    plan = plan_of(8, 8, 8, 5)
    longer = plan.stretch(steps)
    assert longer.rows.tolist() == plan.rows.tolist()
    assert len(longer) == steps
    assert longer.sizes().min() >= 1
    assert set(plan.starts.tolist()) <= set(longer.starts.tolist())


def test_stretching_halves_the_first_of_the_largest_batches() -> None:
    assert plan_of(8, 8, 5).stretch(4).sizes().tolist() == [4, 4, 8, 5]
    assert plan_of(3, 1).stretch(4).sizes().tolist() == [1, 1, 1, 1]


def test_stretching_cannot_go_below_one_row_or_fewer_batches() -> None:
    for steps in (1, 5):
        with pytest.raises(ValueError, match=f"4 rows in 2 batches cannot have {steps}"):
            plan_of(2, 2).stretch(steps)


def test_first_batches() -> None:
    plan = plan_of(4, 4, 2)
    assert batches(plan.first(2)) == batches(plan)[:2]
    assert len(plan.first(2).rows) == 8
    assert batches(plan.first(7)) == batches(plan)
    assert len(plan.first(0)) == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_what_a_rank_reads_is_its_cut_or_the_first_row(size: int) -> None:
    plan = plan_of(4, 1, 7, 2)
    for rank in range(size):
        world = World(rank, size)
        read = batches(plan.of_rank(world))
        cuts = [plan.cut(step, world).tolist() for step in range(len(plan))]
        assert read == [own or [whole[0]] for own, whole in zip(cuts, batches(plan), strict=True)]
    assert len(plan.first(0).of_rank(World(0, size))) == 0


@pytest.mark.parametrize(
    ("rows", "drop_last", "sizes"),
    [(0, False, []), (0, True, []), (3, True, []), (3, False, [3]), (8, True, [4, 4]), (9, False, [4, 4, 1])],
)
def test_consecutive(rows: int, drop_last: bool, sizes: list[int]) -> None:
    plan = Plan.consecutive(np.arange(rows), 4, drop_last)
    assert plan.sizes().tolist() == sizes
    assert plan.rows.tolist() == list(range(sum(sizes)))


def test_of_batches_takes_any_sequences() -> None:
    given = [[3, 1], (0,), np.array([2, 5, 4])]
    plan = Plan.of_batches(iter(given))
    assert batches(plan) == [list(batch) for batch in given]
    assert plan.rows.dtype == plan.starts.dtype == np.int64
    assert len(Plan.of_batches([])) == 0


def test_of_batches_refuses_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="batch 1 of the batch sampler has none"):
        Plan.of_batches([[1], [], [2]])
