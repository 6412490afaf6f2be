"""The batches of an epoch as arrays: which rows, at which step, on which rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ray_st.world import World

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """The global batches of one epoch, in order; independent of the number of workers.

    Args:
        rows: (total,) row indices of all batches, concatenated.
        starts: (steps + 1,) where each batch starts in ``rows``; the last entry is ``len(rows)``.
    """

    rows: Indices
    starts: Indices

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, step: int) -> Indices:
        """Row indices of one global batch."""
        return self.rows[self.starts[step] : self.starts[step + 1]]

    def cut(self, step: int, world: World) -> Indices:
        """The consecutive rows of a global batch that belong to one rank; may be empty."""
        batch = self.batch(step)
        return batch[world.share(len(batch))]

    def of_rank(self, world: World) -> Plan:
        """What one rank reads of each batch: its rows, or the batch's first one if it has none."""
        sizes = self.sizes()
        first = self.starts[:-1] + sizes * world.rank // world.size
        counts = self.starts[:-1] + sizes * (world.rank + 1) // world.size - first
        first = np.where(counts == 0, self.starts[:-1], first)
        counts = np.maximum(counts, 1)
        where = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        return Plan.of_sizes(self.rows[where], counts)

    def sizes(self) -> Indices:
        """(steps,) number of rows in each batch."""
        return np.diff(self.starts)

    def digest(self) -> str:
        """A hash of the rows of all batches, in order."""
        digest = xxhash.xxh3_64(np.ascontiguousarray(self.rows, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.sizes(), dtype="<i8").data)
        return digest.hexdigest()

    def first(self, steps: int) -> Plan:
        """The first ``steps`` batches, or all if there are fewer."""
        starts = self.starts[: steps + 1]
        return Plan(self.rows[: starts[-1]], starts)

    def stretch(self, steps: int) -> Plan:
        """The same rows in the same order in ``steps`` batches; the largest (first) batches are halved.

        transformers assumes the same number of steps in every epoch, so an epoch that packs into fewer
        batches than another is stretched to the longest.

        Raises:
            ValueError: If there are fewer than ``steps`` rows or more than ``steps`` batches.
        """
        if not len(self) <= steps <= max(len(self.rows), len(self)):
            raise ValueError(
                f"A plan of {len(self.rows)} rows in {len(self)} batches cannot have {steps} batches."
            )
        sizes = self.sizes()
        # Each round halves as many of the largest batches as are missing, but no batch of one row.
        while len(sizes) < steps:
            largest = np.argsort(-sizes, kind="stable")[: steps - len(sizes)]
            largest = np.sort(largest[sizes[largest] > 1])
            halves = sizes[largest] // 2
            sizes[largest] -= halves
            sizes = np.insert(sizes, largest + 1, halves)
        return Plan.of_sizes(self.rows, sizes)

    def reorder(self, order: Indices) -> Plan:
        """The batches ``order[0]``, ``order[1]``, … of this plan."""
        sizes = self.sizes()[order]
        ends = np.cumsum(sizes, dtype=np.int64)
        # Position in the new order, shifted by how far the start of its batch moves.
        where = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
            self.starts[order] - (ends - sizes), sizes
        )
        return Plan.of_sizes(self.rows[where], sizes)

    def moved(self, start: int) -> Plan:
        """The same batches with ``start`` added to every row index."""
        return Plan(self.rows + start, self.starts)

    @staticmethod
    def joined(plans: Sequence[Plan]) -> Plan:
        """The batches of several plans, concatenated."""
        nothing = np.zeros(0, dtype=np.int64)
        rows = np.concatenate([nothing, *(plan.rows for plan in plans)])
        return Plan.of_sizes(rows, np.concatenate([nothing, *(plan.sizes() for plan in plans)]))

    @staticmethod
    def of_sizes(rows: Indices, sizes: Indices) -> Plan:
        """A plan from ordered rows and the size of each batch."""
        return Plan(rows, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64))

    @staticmethod
    def consecutive(rows: Indices, batch_size: int, drop_last: bool = False) -> Plan:
        """Cuts rows into batches of ``batch_size``; the last one may be smaller, or is dropped."""
        usable = len(rows) - len(rows) % batch_size if drop_last else len(rows)
        starts = np.append(np.arange(0, usable, batch_size, dtype=np.int64), usable)
        return Plan(rows[:usable], starts if usable else np.zeros(1, dtype=np.int64))

    @staticmethod
    def of_batches(batches: Iterable[Sequence[int]]) -> Plan:
        """A plan from the output of any batch sampler: a sequence of row indices for each batch.

        Raises:
            ValueError: If a batch is empty.
        """
        lists = [np.asarray(batch, dtype=np.int64) for batch in batches]
        empty = next((step for step, batch in enumerate(lists) if not len(batch)), None)
        if empty is not None:
            raise ValueError(f"A batch needs at least one row; batch {empty} of the batch sampler has none.")
        rows = np.concatenate(lists) if lists else np.zeros(0, dtype=np.int64)
        return Plan.of_sizes(rows, np.array([len(batch) for batch in lists], dtype=np.int64))


@dataclass(frozen=True)
class Piece:
    """Consecutive steps of an epoch, planned together.

    Args:
        plan: Their batches.
        first: The first one.
        blocks: For each dataset whose blocks come with pieces, where those of its segments are that hold rows
            of the batches, by number.
    """

    plan: Plan
    first: int = 0
    blocks: tuple[Mapping[int, Any], ...] = ()

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.first + len(self.plan)

    def __contains__(self, step: int) -> bool:
        return self.first <= step < self.end

    def batch(self, step: int) -> Indices:
        """Row indices of one global batch."""
        return self.plan.batch(step - self.first)

    def cut(self, step: int, world: World) -> Indices:
        """The rows of a global batch that belong to one rank; see :meth:`Plan.cut`."""
        return self.plan.cut(step - self.first, world)
