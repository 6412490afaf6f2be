"""Batches over Ray: blocks in the object store, plans from one light actor for the whole cluster."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import ray

from ray_st.data.columns import ColumnSpec
from ray_st.data.feed import Planner
from ray_st.data.plan import Plan
from ray_st.data.window import Window


class PlannerActor:
    """Holds the sampler and its keys; plans each epoch once, for all ranks.

    Args:
        sampler: The batch sampler.
        epochs: How many epochs the run will at most need.
    """

    def __init__(self, sampler: Iterable[list[int]], epochs: int) -> None:
        self._planner = Planner(sampler, epochs)

    def steps(self) -> int:
        """Number of global batches of every epoch."""
        return self._planner.steps

    def plan(self, epoch: int) -> Plan:
        """The global batches of an epoch."""
        return self._planner.plan(epoch)


def start_planner(sampler: Iterable[list[int]], epochs: int) -> Any:
    """Starts the actor that plans a source's epochs; it takes no CPU from the workers."""
    return ray.remote(num_cpus=0)(PlannerActor).remote(sampler, epochs)


class RayFeed:
    """A feed whose rows are blocks in the object store; small, and the same for every rank.

    Args:
        blocks: References to the encoded blocks, in order.
        columns: The columns of the rows.
        rows: Number of rows.
        steps: Number of global batches of every epoch.
        planner: The actor that plans epochs.
    """

    def __init__(self, blocks: list[Any], columns: ColumnSpec, rows: int, steps: int, planner: Any) -> None:
        self._blocks, self._columns, self._planner = blocks, columns, planner
        self.rows, self.steps = rows, steps

    def plan(self, epoch: int) -> Plan:
        """The global batches of an epoch."""
        return ray.get(self._planner.plan.remote(epoch))

    @cached_property
    def _window(self) -> Window:
        return Window(ray.get(self._blocks), self._columns)

    def window(self) -> Window:
        """All rows; blocks are fetched at the first call and stay mapped."""
        return self._window
