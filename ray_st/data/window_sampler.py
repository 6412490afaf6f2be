"""Samples data larger than memory window by window, so that the rows of a step lie in few blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ray_st.data import segments
from ray_st.data.keys import Keys
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import NoDuplicatesBatchSampler, PlannedBatchSampler, order_rng, plan_of

MakeSampler = Callable[[Keys, int], Any]
"""Makes a batch sampler for the rows of one window from their keys and a seed."""


class SegmentRows(Protocol):
    """What a dataset's rows are planned from, segment by segment."""

    @property
    def segment_rows(self) -> Sequence[int]:
        """Number of rows of each segment, including unusable ones."""

    def usable(self, chosen: Indices) -> tuple[Indices, Keys]:
        """Numbers and keys of the usable rows of some segments, in the order of these."""


class KnownRows:
    """Rows whose keys are all known.

    Args:
        keys: Keys of the usable rows.
        segment_rows: Number of rows of each segment, in row order.
        numbers: (n,) the number of each usable row among all, in order; None if all are usable, or only
            usable ones have numbers.
    """

    def __init__(self, keys: Keys, segment_rows: Sequence[int], numbers: Indices | None = None) -> None:
        self._keys, self._numbers, self.segment_rows = keys, numbers, segment_rows
        edges = np.concatenate([[0], np.cumsum(segment_rows)]).astype(np.int64)
        self._edges = edges if numbers is None else np.searchsorted(numbers, edges)

    def usable(self, chosen: Indices) -> tuple[Indices, Keys]:
        """Numbers and keys of the usable rows of some segments, in the order of these."""
        rows = np.concatenate([np.arange(self._edges[one], self._edges[one + 1]) for one in chosen])
        return (rows if self._numbers is None else self._numbers[rows]), self._keys.take(rows)


class WindowedBatchSampler(PlannedBatchSampler):
    """Runs a sampler over one window of segments at a time.

    The order of segments is drawn from (seed, epoch); a window is so many consecutive ones of that order.
    Rows that do not fill a batch in a window (leftovers, collisions) are carried over to the next one; at the
    end of the epoch, the sampler decides what happens to them.

    With ``streams`` an epoch can be planned window by window (:meth:`window_plans`), while later segments are
    still unknown: the number of steps follows from the number of rows alone. What unusable or skipped rows
    take from it is made up for: batches of the window that lacks them are halved, the largest first, or with
    ``drop_last``, which promises full batches, batches of that window come twice.

    Args:
        rows: The rows.
        window_segments: Number of segments in a window; None for all.
        make_sampler: Makes the sampler for a window.
        batch_size: Rows in a global batch.
        drop_last: Whether to drop incomplete batches.
        seed: Seed of the order.
        streams: Whether the number of steps follows from the number of rows alone; the sampler of a window
            must then use all rows, or all but few.
    """

    def __init__(
        self,
        rows: SegmentRows,
        window_segments: int | None,
        make_sampler: MakeSampler,
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
        streams: bool = False,
    ) -> None:
        super().__init__(batch_size, drop_last, seed=seed)
        self._rows, self._window_segments = rows, window_segments
        self._make_sampler, self._streams = make_sampler, streams

    @property
    def windows(self) -> int:
        """Number of windows in the first epoch."""
        return len(self._sizes(0))

    @property
    def promised_steps(self) -> int:
        """Number of batches that all rows make up."""
        return self._steps_of(sum(self._rows.segment_rows))

    def steps(self) -> int | None:
        """Number of batches in every epoch, or None if an epoch must be planned to know it."""
        return self.promised_steps if self._streams else None

    def segments_of(self, epoch: int) -> list[Indices]:
        """The segments of each window of an epoch."""
        order = order_rng(self.seed, epoch).permutation(len(self._rows.segment_rows))
        return np.split(order, np.cumsum(self._sizes(epoch))[:-1]) if len(order) else []

    def window_plans(self) -> Iterator[Plan]:
        """The batches of the epoch, window by window.

        Raises:
            ValueError: If there are no usable rows for a batch although there must be steps.
        """
        carried, keys_of_carried = np.zeros(0, dtype=np.int64), None
        windows = self.segments_of(self.epoch)
        seeds = order_rng(self.seed, self.epoch).integers(2**31, size=len(windows))
        made = _Made(self.steps(), self.batch_size, self.drop_last)
        for number, chosen in enumerate(windows):
            fresh, keys = self._rows.usable(chosen)
            last = number + 1 == len(windows)
            # Carried rows are limited to the number of fresh ones: rows that fit nowhere would otherwise all
            # be tried again in each window, which is not linear.
            again = len(carried) if last else max(len(fresh), self.batch_size)
            rows = np.concatenate([carried, fresh])
            keys = keys if keys_of_carried is None else Keys.joined([keys_of_carried, keys])
            tried = np.concatenate([np.arange(min(again, len(carried))), np.arange(len(carried), len(rows))])
            plan, left = self._window_plan(keys.take(tried), int(seeds[number]), last)
            waiting = np.concatenate([np.arange(len(tried) - len(fresh), len(carried)), tried[left]])
            carried, keys_of_carried = rows[waiting], keys.take(waiting)
            yield made.completed(
                Plan(rows[tried[plan.rows]], plan.starts), self._rows_in(chosen) - len(fresh), last
            )

    def _plan(self, rng: np.random.Generator) -> Plan:
        return Plan.joined(list(self.window_plans()))

    def _window_plan(self, keys: Keys, seed: int, last: bool) -> tuple[Plan, Indices]:
        """The batches of a window, and the rows that wait for the next one."""
        sampler = self._make_sampler(keys, seed)
        if last:
            plan = plan_of(sampler)
            if self._streams and self.drop_last:
                plan, _ = _full_batches(plan, self.batch_size)
            return plan, np.zeros(0, dtype=np.int64)
        if isinstance(sampler, NoDuplicatesBatchSampler):
            sampler.collisions = "keep"  # rows that do not fit here may fit into the next window
        return _full_batches(plan_of(sampler), self.batch_size)

    def _sizes(self, epoch: int) -> list[int]:
        return segments.window_sizes(
            len(self._rows.segment_rows), self._window_segments, self._streams and epoch == 0
        )

    def _rows_in(self, chosen: Indices) -> int:
        return sum(self._rows.segment_rows[one] for one in chosen)


class _Made:
    """Keeps the promised number of steps of an epoch, whatever rows turn out to be unusable.

    Args:
        steps: The number; None if nothing was promised.
        batch_size: Rows of a full batch.
        full: Whether batches must be full.
    """

    def __init__(self, steps: int | None, batch_size: int, full: bool) -> None:
        self._steps, self._batch_size, self._full = steps, batch_size, full
        self._done = self._lost = self._added = 0
        self._filled: Plan | None = None

    def completed(self, plan: Plan, lost: int, last: bool) -> Plan:
        """The batches of a window, with those that unusable rows took from it.

        Args:
            plan: The batches of its usable rows.
            lost: Number of its other rows.
            last: Whether it ends the epoch.
        """
        if self._steps is None:
            return plan
        self._lost += lost
        missing = self._lost // self._batch_size - self._added if len(plan) else 0
        wanted = self._steps - self._done if last else len(plan) + missing
        self._added += wanted - len(plan)
        self._done += wanted
        if len(plan):
            self._filled = plan
        return plan if wanted == len(plan) else self._stretched(plan, wanted)

    def _stretched(self, plan: Plan, steps: int) -> Plan:
        if not self._full and steps <= len(plan.rows):
            return plan.stretch(steps)
        if self._filled is None:
            raise ValueError(f"No usable rows for a batch, but an epoch has {self._steps:,} steps.")
        again = plan if len(plan) else self._filled
        return again.reorder(np.arange(steps) % len(again))


def _full_batches(plan: Plan, batch_size: int) -> tuple[Plan, Indices]:
    """The full batches of a plan, and the rows of the incomplete ones."""
    full = plan.sizes() == batch_size
    in_full = np.repeat(full, plan.sizes())
    return Plan.of_sizes(plan.rows[in_full], plan.sizes()[full]), plan.rows[~in_full]
