"""Epochs planned window by window: the batches of a plan of the whole, and the promised number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ray_st.data.grouping import GroupByLengthBatchSampler
from ray_st.data.keys import Keys
from ray_st.data.mixing import (
    Concatenated,
    MixingBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    WeightedBatchSampler,
)
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder
from ray_st.data.stream_planner import Lane, StreamPlanner
from ray_st.data.window_sampler import KnownRows, WindowedBatchSampler

SEGMENT, BATCH = 10, 8
Make = Callable[[Keys, int], Any]


def default(keys: Keys, seed: int) -> DefaultBatchSampler:
    return DefaultBatchSampler(RandomOrder(len(keys), seed), BATCH)


def masked(keys: Keys, seed: int) -> NoDuplicatesBatchSampler:
    return NoDuplicatesBatchSampler(keys, BATCH, seed=seed, collisions="mask")


def dropped(keys: Keys, seed: int) -> NoDuplicatesBatchSampler:
    return NoDuplicatesBatchSampler(keys, BATCH, seed=seed, collisions="drop")


def by_length(keys: Keys, seed: int) -> GroupByLengthBatchSampler:
    return GroupByLengthBatchSampler(keys, BATCH, seed=seed)


MAKES: dict[str, Make] = {"default": default, "mask": masked, "drop": dropped, "length": by_length}


def keys_of(rows: int, seed: int = 0) -> Keys:
    rng = np.random.default_rng(seed)
    return Keys(rng.integers(0, max(rows // 3, 1), (rows, 1)).astype(np.uint64), rng.integers(1, 9, rows))


class FaultyRows:
    """Rows of which some cannot be used; remembers which segments were looked at, and hinted at."""

    def __init__(self, rows: int, faulty: float, seed: int = 0) -> None:
        self._keys, self._usable = keys_of(rows, seed), np.random.default_rng(seed).random(rows) >= faulty
        self.segment_rows = [min(SEGMENT, rows - start) for start in range(0, rows, SEGMENT)]
        self.read: list[int] = []
        self.hinted: list[int] = []

    def usable(self, chosen: Indices) -> tuple[Indices, Keys]:
        self.read += chosen.tolist()
        ends = [one * SEGMENT + self.segment_rows[one] for one in chosen]
        rows = np.concatenate([np.arange(one * SEGMENT, end) for one, end in zip(chosen, ends, strict=True)])
        rows = rows[self._usable[rows]]
        return rows, self._keys.take(rows)

    def ahead(self, chosen: Indices) -> None:
        self.hinted += chosen.tolist()


def windowed(rows: Any, make: Make, drop_last: bool = False, seed: int = 3) -> WindowedBatchSampler:
    return WindowedBatchSampler(rows, 6, make, BATCH, drop_last, seed, streams=True)


def pieces(planner: StreamPlanner, epoch: int) -> list[Plan]:
    found, step = [], 0
    while step < planner.steps:
        piece = planner.piece(epoch, step)
        assert piece.first == step
        found.append(piece.plan)
        step = piece.end
    return found


@pytest.mark.parametrize("rows", [1, 25, 103, 317])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_pieces_are_the_plan_of_the_whole(make: Make, rows: int) -> None:
    known = KnownRows(keys_of(rows), FaultyRows(rows, 0).segment_rows)
    whole = windowed(known, make)
    planner = StreamPlanner([Lane(windowed(FaultyRows(rows, 0), make))])
    assert planner.steps == whole.steps() == -(-rows // BATCH)
    for epoch in range(3):
        whole.set_epoch(epoch)
        plan = Plan.joined(pieces(planner, epoch))
        assert plan.rows.tolist() == whole.plan().rows.tolist()
        assert plan.starts.tolist() == whole.plan().starts.tolist()


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("faulty", [0.01, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_steps_promised_are_steps_made_whatever_rows_are_faulty(
    make: Make, faulty: float, drop_last: bool
) -> None:
    for rows, seed in [(103, 0), (317, 1), (320, 2), (640, 3)]:
        given = FaultyRows(rows, faulty, seed)
        planner = StreamPlanner([Lane(windowed(given, make, drop_last))])
        assert planner.steps == (rows // BATCH if drop_last else -(-rows // BATCH))
        for epoch in range(2):
            plan = Plan.joined(pieces(planner, epoch))
            usable, _ = given.usable(np.arange(len(given.segment_rows)))
            assert len(plan) == planner.steps
            assert set(plan.rows.tolist()) <= set(usable.tolist())
            if drop_last:
                assert (plan.sizes() == BATCH).all()
            elif len(usable) >= planner.steps and faulty < 0.5:
                assert make is dropped or sorted(plan.rows.tolist()) == usable.tolist()
            for step in range(len(plan)):
                assert len(np.unique(plan.batch(step))) == len(plan.batch(step))


def test_without_a_usable_row_an_epoch_of_steps_is_an_error() -> None:
    planner = StreamPlanner([Lane(windowed(FaultyRows(50, 1.0), default))])
    with pytest.raises(ValueError, match="No usable rows for a batch, but an epoch has 7 steps"):
        pieces(planner, 0)


MIXES: dict[str, Callable[..., MixingBatchSampler]] = {
    "round robin": RoundRobinBatchSampler,
    "proportional": ProportionalBatchSampler,
    "weighted": lambda data, samplers, seed: WeightedBatchSampler(data, samplers, (1.0, 2.0, 0.5), seed=seed),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("sizes", [(103, 317, 25), (64, 9, 230), (1, 1, 1)])
def test_a_mixture_in_pieces_is_the_mixture(
    mix: Callable[..., MixingBatchSampler], sizes: tuple[int, ...]
) -> None:
    whole = [windowed(FaultyRows(rows, 0, rows), default, seed=rows) for rows in sizes]
    parts = [windowed(FaultyRows(rows, 0, rows), default, seed=rows) for rows in sizes]
    starts, data = np.cumsum([0, *sizes]), Concatenated([range(rows) for rows in sizes])
    mixed = mix(data, whole, seed=4)
    lanes = [Lane(part, int(start)) for part, start in zip(parts, starts, strict=False)]
    planner = StreamPlanner(lanes, mix(data, parts, seed=4))
    for epoch in range(2):
        mixed.set_epoch(epoch)
        plan = mixed.plan()
        found = Plan.joined(pieces(planner, epoch))
        assert planner.steps == len(plan)
        assert found.rows.tolist() == plan.rows.tolist()
        assert found.starts.tolist() == plan.starts.tolist()


def test_any_step_can_be_asked_for() -> None:
    planner = StreamPlanner([Lane(windowed(FaultyRows(640, 0), masked))])
    expected = {epoch: Plan.joined(pieces(planner, epoch)) for epoch in range(3)}
    for epoch, step in [(0, 79), (2, 0), (2, 70), (1, 33), (1, 0), (0, 5)]:
        found = planner.piece(epoch, step)
        assert step in found
        assert found.batch(step).tolist() == expected[epoch].batch(step).tolist()
    with pytest.raises(IndexError, match="step 80 of an epoch of 80 steps"):
        planner.piece(0, 80)


def test_the_first_piece_reads_the_first_window_only_and_hints_at_the_second() -> None:
    rows = FaultyRows(640, 0)
    planner = StreamPlanner([Lane(windowed(rows, default), ahead=rows.ahead)])
    planner.piece(0, 0)
    assert len(rows.read) == 2
    assert len(rows.hinted) == 4
    planner.piece(0, planner.piece(0, 0).end)
    assert rows.read[2:] == rows.hinted[:4]


def test_the_last_piece_hints_at_the_next_epoch() -> None:
    rows = FaultyRows(640, 0)
    planner = StreamPlanner([Lane(windowed(rows, default), ahead=rows.ahead)], epochs=2)
    pieces(planner, 0)
    before, hinted = len(rows.read), rows.hinted[-6:]
    planner.piece(1, 0)
    assert rows.read[before:] == hinted


def test_the_last_epoch_hints_at_no_other() -> None:
    rows = FaultyRows(640, 0)
    planner = StreamPlanner([Lane(windowed(rows, default), ahead=rows.ahead)], epochs=1)
    pieces(planner, 0)
    assert rows.hinted == rows.read[2:]


def test_segments_beyond_the_steps_of_a_run_are_not_hinted_at() -> None:
    rows = FaultyRows(640, 0)
    planner = StreamPlanner([Lane(windowed(rows, default), ahead=rows.ahead)], steps_needed=2)
    planner.piece(0, 0)
    assert len(rows.read) == 2
    assert not rows.hinted
