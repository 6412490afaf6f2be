"""Batches over Ray: blocks in the object store, plans from one lightweight actor per cluster.

This module imports little, because a Ray Train actor loads it while workers wait.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

import pyarrow as pa
import ray
from ray.exceptions import ObjectLostError

from ray_st.data.batch_source import PiecePlanner
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices, Piece
from ray_st.runtime.cluster.handles import Actor, start_actor


class EpochPlans:
    """The epochs of a batch source, each planned once for all ranks.

    The driver plans the first piece of the first epoch, an actor the others.

    The actor starts when another piece is requested: starting earlier would delay the workers' processes,
    and many runs never need it. It reserves no CPU; if it is lost, its replacement makes the same plans.

    Args:
        planner: The source's planner.
    """

    def __init__(self, planner: PiecePlanner) -> None:
        self.steps = planner.steps
        self._first = ray.put(planner.piece(0, 0))
        self._planner = ray.put(planner)
        self._name = f"planner-{uuid.uuid4().hex}"

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch."""
        if epoch == 0 and step in (first := ray.get(self._first)):
            return first
        return ray.get(self._actor.piece.remote(epoch, step))

    @cached_property
    def _actor(self) -> Actor:
        once = {"name": self._name, "get_if_exists": True}
        return start_actor(
            PlannerActor, self._planner, num_cpus=0, max_restarts=-1, max_task_retries=-1, **once
        )


class PlannerActor:
    """A planner in a separate process.

    Args:
        planner: The planner.
    """

    def __init__(self, planner: PiecePlanner) -> None:
        self._planner = planner

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch."""
        return self._planner.piece(epoch, step)


@dataclass(frozen=True)
class BlockRefs:
    """References to the blocks of one dataset.

    Args:
        references: The blocks in the object store, by number; empty if they come with pieces.
        rows: Number of rows of each block.
        columns: The columns of the rows.
        resident: Maximum number of blocks that a rank holds at a time; None for all.
    """

    references: Mapping[int, Any]
    rows: tuple[int, ...]
    columns: ColumnSpec
    resident: int | None = None


class FetchedBlocks(Sequence[pa.Table]):
    """Blocks by number, fetched from the object store on access."""

    def __init__(self, source: RayBatchSource, dataset: int, blocks: int) -> None:
        self._source, self._dataset, self._count = source, dataset, blocks

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int | slice) -> Any:
        assert isinstance(number, int)
        return self._source.fetched(self._dataset, number)


class RayBatchSource:
    """A batch source whose rows are blocks in the object store; small, and identical on every rank.

    Args:
        blocks: References to each dataset's blocks, by name.
        planner: Plans the epochs: one that all ranks share, or a planner in this process.
    """

    def __init__(self, blocks: dict[str, BlockRefs], planner: PiecePlanner) -> None:
        self.blocks, self.planner = blocks, planner
        self.names, self.steps = list(blocks), planner.steps
        self.rows = sum(sum(refs.rows) for refs in blocks.values())
        self._asked: list[tuple[int, int, ref[Piece]]] = []

    def __getstate__(self) -> dict[str, Any]:
        """The state without the pieces that this process uses."""
        return {**vars(self), "_asked": []}

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch.

        Its blocks can be read as long as whoever asked for it keeps it, and leave the object store with it.
        """
        found = self.planner.piece(epoch, step)
        if found.blocks:
            self._asked = [known for known in self._asked if known[2]() is not None]
            self._asked.append((epoch, step, ref(found)))
        return found

    def seen(self) -> Mapping[str, Any]:
        """For each dataset whose blocks come with pieces, what became known of its rows so far."""
        planner: Any = self.planner
        found: Mapping[str, Any] = planner.seen()
        return found

    def reference(self, dataset: int, number: int) -> Any:
        """The block of a dataset in the object store: one of all, or of the pieces that are in use.

        Raises:
            KeyError: If no piece in use has rows of it.
        """
        known = self.blocks[self.names[dataset]].references
        if known:
            return known[number]
        for _, _, one in self._asked:
            if (piece := one()) is not None and number in piece.blocks[dataset]:
                return piece.blocks[dataset][number]
        raise KeyError(f"no piece in use has rows of block {number} of dataset {dataset}")

    def fetched(self, dataset: int, number: int) -> Any:
        """A block, from the object store."""
        try:
            return ray.get(self.reference(dataset, number))
        except ObjectLostError:
            # The actor that had it encoded was lost: its replacement has it encoded again.
            for epoch, step, one in self._asked:
                if (piece := one()) is not None and number in piece.blocks[dataset]:
                    return ray.get(self.planner.piece(epoch, step).blocks[dataset][number])
            raise

    @cached_property
    def windows(self) -> list[EncodedDataset]:
        """The rows of each dataset; blocks are fetched on demand."""
        return [
            EncodedDataset(
                FetchedBlocks(self, number, len(refs.rows)), refs.columns, refs.rows, refs.resident
            )
            for number, refs in enumerate(self.blocks.values())
        ]

    def ahead(self, source: int, rows: Indices) -> None:
        """Prefetches the blocks of some rows to this node, without waiting."""
        wanted = [self.reference(source, block) for block in self.windows[source].blocks_of(rows)]
        if wanted:
            ray.wait(wanted, num_returns=len(wanted), timeout=0, fetch_local=True)
