"""Plans epochs window by window, so that training begins before the rows of later windows are known."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_st.data.mixing import MixingBatchSampler, interleave
from ray_st.data.plan import Indices, Piece, Plan
from ray_st.data.samplers import order_rng
from ray_st.data.window_sampler import WindowedBatchSampler

_KEPT = 8


@dataclass(frozen=True)
class Lane:
    """One dataset's batches.

    Args:
        sampler: Its sampler, with ``streams``.
        start: Number of its first row among the rows of all datasets.
        ahead: Hints which of its segments are needed next.
    """

    sampler: WindowedBatchSampler
    start: int = 0
    ahead: Callable[[Indices], None] = lambda segments: None

    @property
    def steps(self) -> int:
        """Number of batches of every epoch."""
        return self.sampler.promised_steps

    def plans(self, epoch: int) -> Iterator[Plan]:
        """The batches of each window of an epoch, by row numbers among all datasets."""
        self.sampler.set_epoch(epoch)
        return (plan.moved(self.start) for plan in self.sampler.window_plans())


class StreamPlanner:
    """Plans the pieces of epochs, in order; the same whenever and wherever it does.

    A piece ends where a dataset's next window begins. The latest pieces are kept; for an earlier one the
    epoch is planned again from its start.

    Args:
        lanes: The datasets.
        mix: Decides which dataset a step takes its batch from; None for a single dataset.
        epochs: Number of epochs of the run, at most; segments of later ones are not asked for.
        steps_needed: Number of steps of the run, in all epochs, if that says it.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        mix: MixingBatchSampler | None = None,
        epochs: int = 1,
        steps_needed: int | None = None,
    ) -> None:
        self.lanes, self._mix = tuple(lanes), mix
        self.steps = len(self._order(0))
        self._needed = epochs * self.steps if steps_needed is None else steps_needed
        self._kept: deque[tuple[int, Piece]] = deque(maxlen=_KEPT)
        self._going: tuple[int, Iterator[Piece]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The state without the epoch that is being planned: elsewhere it is planned from its start."""
        return {**vars(self), "_going": None}

    def first_segments(self, number: int) -> list[int]:
        """The segments of a dataset's first window, in row order."""
        return sorted(self.lanes[number].sampler.segments_of(0)[0].tolist())

    def piece(self, epoch: int, step: int) -> Piece:
        """The piece of a step.

        Raises:
            ValueError: If a row cannot be used, or no row at all.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps} steps")
        for of, piece in self._kept:
            if of == epoch and step in piece:
                return piece
        return next(piece for piece in self._from(epoch, step) if step in piece)

    def _from(self, epoch: int, step: int) -> Iterator[Piece]:
        """Pieces of an epoch that were not planned yet, or all again if the step is in an earlier one."""
        planned = max((piece.end for of, piece in self._kept if of == epoch), default=0)
        if self._going is None or self._going[0] != epoch or step < planned:
            self._going = (epoch, self._pieces(epoch))
            self._kept.clear()
        for piece in self._going[1]:
            self._kept.append((epoch, piece))
            yield piece

    def _pieces(self, epoch: int) -> Iterator[Piece]:
        order = self._order(epoch)
        streams = [
            _Stream(lane, epoch, np.flatnonzero(order == number)) for number, lane in enumerate(self.lanes)
        ]
        first = 0
        while first < len(order):
            for stream in streams:
                stream.refill(first)
            end = min(len(order), *(stream.lasts for stream in streams))
            plans = [stream.take(end) for stream in streams]
            if epoch * self.steps + end < self._needed:
                for stream in streams:
                    stream.look_ahead()
            yield Piece(interleave(plans, order[first:end]), first)
            first = end

    def _order(self, epoch: int) -> Indices:
        """(steps,) the dataset of each step."""
        counts = np.array([lane.steps for lane in self.lanes], dtype=np.int64)
        if self._mix is None:
            return np.zeros(counts[0], dtype=np.int64)
        return self._mix.order(counts, order_rng(self._mix.seed, epoch))


class _Stream:
    """A dataset's batches of one epoch, window by window.

    Args:
        lane: The dataset.
        epoch: The epoch.
        steps: The steps that take a batch of it, in order.
    """

    def __init__(self, lane: Lane, epoch: int, steps: Indices) -> None:
        self._lane, self._steps = lane, steps
        self._epoch, self._windows = epoch, lane.sampler.segments_of(epoch)
        self._plans, self._number = lane.plans(epoch), 0
        self._plan, self._taken, self._used = Plan.joined([]), 0, 0

    @property
    def lasts(self) -> int:
        """The step that needs the next window; none ever does after the last one."""
        following = self._taken + len(self._plan) - self._used
        return int(self._steps[following]) if following < len(self._steps) else sys.maxsize

    def refill(self, step: int) -> None:
        """Plans the next window with batches if the step needs one."""
        while self.lasts == step:
            self._plan, self._used = next(self._plans), 0
            self._number += 1

    def take(self, end: int) -> Plan:
        """The batches of steps before this one that were not taken yet."""
        taken = int(np.searchsorted(self._steps, end))
        batches = np.arange(self._used, self._used + taken - self._taken)
        self._used += len(batches)
        self._taken = taken
        return self._plan.reorder(batches)

    def look_ahead(self) -> None:
        """Hints at the segments of the next window, in this epoch or the next."""
        following = self._windows[self._number :] or self._lane.sampler.segments_of(self._epoch + 1)
        self._lane.ahead(following[0])
