"""A rank's own rows of its steps, read where their blocks lie, some steps ahead.

Like :mod:`ray_st.runtime.data.block_source` this module imports little.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import groupby
from threading import Lock
from typing import Any
from weakref import ref

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.experimental import get_object_locations
from ray.train import DataConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_st.data.batch_source import PiecePlanner
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoded_dataset import EncodedBlock, EncodedDataset
from ray_st.data.plan import Indices, Piece, Plan
from ray_st.runtime.data.block_source import BlockRefs, FetchedBlocks, RayBatchSource
from ray_st.world import World

SHARE_STEPS = 32
"""Steps, at least, whose rows are read together: as far as a step loader looks ahead."""

SHARE_ROWS = 8192
"""Rows of a rank, about, that are read together if its steps are small."""

_KEPT = 3  # the one in use, the next one, and one of another loader
_AT_ONCE = 2  # reads at a time: as many processes a rank, anywhere in the cluster
_LOOKUP_MS = 2_000

Tables = Future[list[pa.Table]]


class Share:
    """Some rows of a dataset, which are being read.

    Args:
        columns: The columns of the rows.
        parts: Numbers of the rows, and the tables that hold them in this order.
    """

    def __init__(self, columns: ColumnSpec, parts: Sequence[tuple[Indices, Tables]]) -> None:
        self._columns, self._parts = columns, parts
        numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(rows for rows, _ in parts)])
        self._order = np.argsort(numbers)
        self._numbers = numbers[self._order]

    def __contains__(self, rows: Indices) -> bool:
        found = np.searchsorted(self._numbers, rows)
        return bool((found < len(self._numbers)).all() and (self._numbers[found] == rows).all())

    def located(self, rows: Indices) -> list[tuple[EncodedBlock, int]]:
        """As :meth:`EncodedDataset.located`, for rows that it has; waits for them."""
        return self._rows.located(self._order[np.searchsorted(self._numbers, rows)])

    def drop(self) -> None:
        """Reads nothing that is not yet being read."""
        for _, tables in self._parts:
            tables.cancel()

    @cached_property
    def _rows(self) -> EncodedDataset:
        return EncodedDataset(
            [table for _, tables in self._parts for table in tables.result()], self._columns
        )


class OwnRows(EncodedDataset):
    """The rows of a dataset, of which a rank reads its own.

    Others can be read, too; their whole blocks are fetched then.

    Args:
        source: The rank's batch source.
        dataset: Number of the dataset.
        refs: Its blocks.
    """

    def __init__(self, source: RankBatchSource, dataset: int, refs: BlockRefs) -> None:
        blocks = FetchedBlocks(source, dataset, len(refs.rows))
        super().__init__(blocks, refs.columns, refs.rows, refs.resident)
        self._source, self._dataset = source, dataset

    def located(self, rows: Indices) -> list[tuple[EncodedBlock, int]]:
        """(block, row within the block) of each row; see :class:`EncodedDataset`."""
        share = self._source.share(self._dataset, rows)
        return super().located(rows) if share is None else share.located(rows)


class _Used:
    """A piece that is in use, as long as somebody keeps it, with its blocks and the nodes where they are."""

    def __init__(self, piece: Piece, epoch: int, step: int) -> None:
        self.piece, self.epoch, self.step = ref(piece), epoch, step
        self.blocks = piece.blocks
        self.nodes: dict[tuple[int, int], str] = {}


class RankBatchSource(RayBatchSource):
    """A batch source for one rank, which fetches its own rows instead of whole blocks.

    The rows of some steps are read together by a task on each node that has blocks with such rows; those on
    this node are read here. What is read is a copy of the rank's rows alone: it goes to this process, or if
    it is large, to this node's object store.

    If blocks are lost with the actor that had them encoded, they are asked for again.

    Args:
        blocks: As for :class:`RayBatchSource`.
        planner: As there.
        world: The rank.
    """

    def __init__(self, blocks: dict[str, BlockRefs], planner: PiecePlanner, world: World) -> None:
        super().__init__(blocks, planner)
        self._world = world
        self._clear()

    @classmethod
    def of(cls, source: RayBatchSource, world: World) -> RankBatchSource:
        """A batch source's rows for one rank."""
        return cls(source.blocks, source.planner, world)

    def __getstate__(self) -> dict[str, Any]:
        """The state without what this process reads."""
        mine = ("windows", "_threads", "_here", "_rows_of", "_used", "_shares", "_lock")
        return {name: value for name, value in super().__getstate__().items() if name not in mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear()

    def _clear(self) -> None:
        self._used: list[_Used] = []
        self._shares: deque[list[Share]] = deque()
        self._lock = Lock()

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch; see :meth:`RayBatchSource.piece`."""
        found = super().piece(epoch, step)
        with self._lock:
            self._used = [used for used in self._used if used.piece() is not None]
            if all(used.piece() is not found for used in self._used):
                self._used.append(_Used(found, epoch, step))
        return found

    @cached_property
    def windows(self) -> list[EncodedDataset]:
        """The rows of each dataset."""
        return [OwnRows(self, number, refs) for number, refs in enumerate(self.blocks.values())]

    def ahead(self, source: int, rows: Indices) -> None:
        """Starts to read some rows of this rank, with those of the steps around, without waiting."""
        self.share(source, rows)

    def share(self, dataset: int, rows: Indices) -> Share | None:
        """What is read of a dataset together with some rows.

        Returns:
            None if the rows belong to no piece in use, or to other ranks, or if there are none.
        """
        if not len(rows):
            return None
        with self._lock:
            for shares in reversed(self._shares):
                if rows in shares[dataset]:
                    return shares[dataset]
            return self._started(dataset, rows)

    def _started(self, dataset: int, rows: Indices) -> Share | None:
        """Starts to read the rows of this rank in the steps around some of them."""
        wanted = rows + self._starts[dataset]
        for used in self._used:
            piece = used.piece()
            if piece is None:
                continue
            for own in _own_rows(piece.plan, int(wanted[0]), self._world):
                if not np.isin(wanted, own).all():
                    continue
                shares = [self._read(used, number, own) for number in range(len(self.names))]
                self._shares.append(shares)
                while len(self._shares) > _KEPT:
                    for old in self._shares.popleft():
                        old.drop()
                return shares[dataset]
        return None

    def _read(self, used: _Used, dataset: int, own: Indices) -> Share:
        """Has the rows of a dataset among those of all datasets read, on each node those that lie there."""
        refs, start = self.blocks[self.names[dataset]], self._starts[dataset]
        ends = np.cumsum(refs.rows)
        local = own[(own >= start) & (own < self._starts[dataset + 1])] - start
        block_of = np.searchsorted(ends, local, side="right")
        blocks = np.unique(block_of).tolist()
        nodes = self._nodes(used, dataset, blocks)
        parts = []
        for node in sorted(set(nodes.values()), key=self._from_this_rank):
            there = {number: local[block_of == number] for number in blocks if nodes[number] == node}
            places = [rows - (ends[number] - refs.rows[number]) for number, rows in there.items()]
            tables = self._threads.submit(self._rows_on, node, used, dataset, list(there), places)
            parts.append((np.concatenate(list(there.values())), tables))
        return Share(refs.columns, parts)

    def _from_this_rank(self, node: str) -> bytes:
        """Nodes in an order that differs from rank to rank, so that not all read from one first."""
        return hashlib.blake2b(f"{self._world.rank} {node}".encode()).digest()

    def _nodes(self, used: _Used, dataset: int, blocks: Sequence[int]) -> dict[int, str]:
        """The node of each block: this one, if one of several copies is here or nothing is known."""
        unknown = [number for number in blocks if (dataset, number) not in used.nodes]
        answers = True
        for number, block in zip(unknown, self._blocks(used, dataset, unknown), strict=True):
            nodes = _nodes_of(block) if answers else []
            answers = answers and nodes is not None
            place = self._here if not nodes or self._here in nodes else min(nodes)
            used.nodes[dataset, number] = place
        return {number: used.nodes[dataset, number] for number in blocks}

    def _blocks(self, used: _Used, dataset: int, numbers: Sequence[int]) -> list[ray.ObjectRef[Any]]:
        known = used.blocks[dataset] if used.blocks else self.blocks[self.names[dataset]].references
        return [known[number] for number in numbers]

    def _rows_on(
        self, node: str, used: _Used, dataset: int, numbers: Sequence[int], places: Sequence[Indices]
    ) -> list[pa.Table]:
        """Rows of blocks on a node, in a thread; they may have left it."""
        blocks = self._blocks(used, dataset, numbers)
        try:
            if node == self._here:
                return rows_of(places, *ray.get(blocks))
            there = NodeAffinitySchedulingStrategy(node, soft=True)
            task = self._rows_of.options(num_cpus=0, scheduling_strategy=there)
            found: list[pa.Table] = ray.get(task.remote(places, *blocks))
            return found
        except RayError:
            self._ask_again(used)
            return rows_of(places, *ray.get(self._blocks(used, dataset, numbers)))

    def _ask_again(self, used: _Used) -> None:
        """Asks for the blocks of a piece: if the actor was lost, its replacement has them encoded again."""
        if used.blocks:
            fresh = self.planner.piece(used.epoch, used.step).blocks
            with self._lock:
                used.blocks = fresh
                used.nodes.clear()

    @cached_property
    def _rows_of(self) -> Any:
        return ray.remote(rows_of)

    @cached_property
    def _here(self) -> str:
        node: str = ray.get_runtime_context().get_node_id()
        return node

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ray_st-rows")

    @cached_property
    def _starts(self) -> list[int]:
        return np.cumsum([0, *(sum(refs.rows) for refs in self.blocks.values())]).tolist()


def rows_of(places: Sequence[Indices], *blocks: pa.Table) -> list[pa.Table]:
    """Copies of rows of blocks, in the order of these; runs as a task.

    Args:
        places: For each block, the places of the rows in it.
        blocks: The blocks.
    """
    taken = [block.take(pa.array(rows)) for block, rows in zip(blocks, places, strict=True)]
    # Blocks without rows of some kind may lack columns.
    return [
        pa.concat_tables(alike).combine_chunks() for _, alike in groupby(taken, lambda table: table.schema)
    ]


def _nodes_of(block: ray.ObjectRef[Any]) -> list[str] | None:
    """The nodes that have a block; None if its owner does not answer."""
    try:
        # One at a time: Ray 2.60 aborts the process if an owner answers before the next one is asked.
        found = get_object_locations([block], _LOOKUP_MS)
    except RayError:
        return None
    return list(found[block]["node_ids"]) if block in found else None


def _own_rows(plan: Plan, row: int, world: World) -> Iterator[Indices]:
    """A rank's rows of the steps around a row, in order, for each place of the row in a plan."""
    steps = max(SHARE_STEPS, -(-SHARE_ROWS * world.size // int(plan.sizes().max())))
    found = np.searchsorted(plan.starts, np.flatnonzero(plan.rows == row), side="right") - 1
    for first in np.unique(found // steps * steps).tolist():
        around = plan.reorder(np.arange(first, min(first + steps, len(plan))))
        yield np.unique(around.of_rank(world).rows)


class SourceConfig(DataConfig):
    """Passes batch sources to workers.

    Every rank gets the same small, picklable ones if all are on one node: its ranks need all rows, which they
    share in its object store. Ranks on several nodes each fetch their own.

    Args:
        sources: One batch source per dataset name.
    """

    def __init__(self, sources: Mapping[str, RayBatchSource]) -> None:
        super().__init__()
        self._sources = dict(sources)

    def configure(
        self,
        datasets: Mapping[str, object],
        world_size: int,
        worker_handles: object = None,
        worker_node_ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """The batch sources of each rank."""
        apart = len(set(worker_node_ids or ())) > 1
        return [
            {
                name: RankBatchSource.of(self._sources[name], World(rank, world_size))
                if apart
                else self._sources[name]
                for name in datasets
            }
            for rank in range(world_size)
        ]
