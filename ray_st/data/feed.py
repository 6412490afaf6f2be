"""What a rank asks for batches: the plan of an epoch and the rows of a window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ray_st.data.plan import Plan
from ray_st.data.samplers import PlannedBatchSampler
from ray_st.data.window import Window


class Feed(Protocol):
    """The batches of one source for a rank."""

    @property
    def steps(self) -> int:
        """Number of global batches of every epoch."""

    @property
    def rows(self) -> int:
        """Number of rows of an epoch."""

    def plan(self, epoch: int) -> Plan:
        """The global batches of an epoch."""

    def window(self) -> Window:
        """The rows that the plan's indices refer to."""


class Planner:
    """Plans epochs with a batch sampler, all with the same number of steps.

    Where epochs differ in their number of batches, shorter ones are stretched to the longest; with ``drop_last``, which
    promises full batches, longer ones are cut to the shortest.

    Args:
        sampler: A batch sampler; ``set_epoch`` is called where it has it.
        epochs: How many epochs the run will at most need.
    """

    def __init__(self, sampler: Iterable[list[int]], epochs: int) -> None:
        self._sampler = sampler
        self._latest: tuple[int, Plan] | None = None
        self._drop_last = bool(getattr(sampler, "drop_last", False))
        self.steps = self._count(max(epochs, 1))

    def _count(self, epochs: int) -> int:
        known = self._sampler.steps() if isinstance(self._sampler, PlannedBatchSampler) else None
        if known is not None:
            return known
        lengths = [len(self._draw(epoch)) for epoch in reversed(range(epochs))]
        return min(lengths) if self._drop_last else max(lengths)

    def _draw(self, epoch: int) -> Plan:
        if self._latest is None or self._latest[0] != epoch:
            set_epoch: Any = getattr(self._sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
            if isinstance(self._sampler, PlannedBatchSampler):
                self._latest = (epoch, self._sampler.plan())
            else:
                self._latest = (epoch, Plan.of_batches(self._sampler))
        return self._latest[1]

    def plan(self, epoch: int) -> Plan:
        """The global batches of an epoch."""
        plan = self._draw(epoch)
        return (plan.first(self.steps) if self._drop_last else plan).stretch(self.steps)


class MemoryFeed:
    """A feed whose rows and planner are in this process.

    Args:
        window: All rows.
        planner: Plans the epochs.
    """

    def __init__(self, window: Window, planner: Planner) -> None:
        self._window, self._planner = window, planner

    @property
    def steps(self) -> int:
        """Number of global batches of every epoch."""
        return self._planner.steps

    @property
    def rows(self) -> int:
        """Number of rows of an epoch."""
        return len(self._window)

    def plan(self, epoch: int) -> Plan:
        """The global batches of an epoch."""
        return self._planner.plan(epoch)

    def window(self) -> Window:
        """All rows."""
        return self._window
