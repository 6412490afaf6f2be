"""Samples data larger than memory window by window, so that the rows of a step lie in few blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ray_st.data.keys import Keys
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import NoDuplicatesBatchSampler, PlannedBatchSampler, plan_of

MakeSampler = Callable[[Keys, int], Any]
"""Makes a batch sampler for the rows of one window from their keys and a seed."""


class WindowedBatchSampler(PlannedBatchSampler):
    """Runs a sampler over one window of segments at a time.

    The order of segments is drawn from (seed, epoch); a window is so many consecutive ones of that order.
    Rows that do not fill a batch in a window (leftovers, collisions) are carried over to the next one; at the
    end of the epoch, the sampler decides what happens to them.

    Args:
        keys: Keys of all rows.
        segment_rows: Number of rows in each segment, in row order.
        window_segments: Number of segments in a window.
        make_sampler: Makes the sampler for a window.
        batch_size: Rows in a global batch.
        drop_last: Whether to drop incomplete batches.
        seed: Seed of the order.
    """

    def __init__(
        self,
        keys: Keys,
        segment_rows: Sequence[int],
        window_segments: int,
        make_sampler: MakeSampler,
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, drop_last, seed=seed)
        self._keys, self._make_sampler = keys, make_sampler
        self._edges = np.concatenate([[0], np.cumsum(segment_rows)]).astype(np.int64)
        self._window_segments = max(window_segments, 1)

    @property
    def windows(self) -> int:
        """Number of windows in an epoch."""
        return -(-(len(self._edges) - 1) // self._window_segments)

    def _plan(self, rng: np.random.Generator) -> Plan:
        segments = rng.permutation(len(self._edges) - 1)
        carried: Indices = np.zeros(0, dtype=np.int64)
        plans = []
        for window in range(self.windows):
            chosen = segments[window * self._window_segments : (window + 1) * self._window_segments]
            fresh = np.concatenate([np.arange(self._edges[one], self._edges[one + 1]) for one in chosen])
            last = window + 1 == self.windows
            # Carried rows are limited to the number of fresh ones: rows that fit nowhere would otherwise all
            # be tried again in each window, which is not linear.
            again = len(carried) if last else max(len(fresh), self.batch_size)
            rows = np.concatenate([carried[:again], fresh])
            plan = self._window_plan(rows, int(rng.integers(2**31)), last)
            if not last:
                plan, left = _full_batches(plan, self.batch_size)
                carried = np.concatenate([carried[again:], left])
            plans.append(plan)
        return Plan.joined(plans)

    def _window_plan(self, rows: Indices, seed: int, last: bool) -> Plan:
        sampler = self._make_sampler(self._keys.take(rows), seed)
        if isinstance(sampler, NoDuplicatesBatchSampler) and not last:
            sampler.collisions = "keep"  # rows that do not fit here may fit into the next window
        plan = plan_of(sampler)
        return Plan(rows[plan.rows], plan.starts)


def _full_batches(plan: Plan, batch_size: int) -> tuple[Plan, Indices]:
    """The full batches of a plan, and the rows of the incomplete ones."""
    full = plan.sizes() == batch_size
    in_full = np.repeat(full, plan.sizes())
    return Plan.of_sizes(plan.rows[in_full], plan.sizes()[full]), plan.rows[~in_full]
