"""Batches over Ray: blocks in the object store, plans from one lightweight actor per cluster.

This module imports little, because a Ray Train actor loads it while workers wait.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ObjectLostError
from ray.train import DataConfig

from ray_st.data.batch_source import PiecePlanner
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices, Piece
from ray_st.runtime.cluster.handles import Actor, start_actor

_RECENT = 4


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


class _Fetched(Sequence[pa.Table]):
    """Blocks by number, fetched from the object store on access."""

    def __init__(self, source: RayBatchSource, dataset: int, blocks: int) -> None:
        self._source, self._dataset, self._blocks = source, dataset, blocks

    def __len__(self) -> int:
        return self._blocks

    def __getitem__(self, number: int | slice) -> Any:
        assert isinstance(number, int)
        try:
            return ray.get(self._source.references(self._dataset)[number])
        except ObjectLostError:
            # The actor that had it encoded was lost; its replacement has it encoded again.
            self._source.renew()
            return ray.get(self._source.references(self._dataset)[number])


class RayBatchSource:
    """A batch source whose rows are blocks in the object store; small, and identical on every rank.

    Args:
        blocks: References to each dataset's blocks, by name.
        planner: Plans the epochs: one that all ranks share, or a planner in this process.
    """

    def __init__(self, blocks: dict[str, BlockRefs], planner: PiecePlanner) -> None:
        self._blocks, self.planner = blocks, planner
        self.names, self.steps = list(blocks), planner.steps
        self.rows = sum(sum(refs.rows) for refs in blocks.values())
        self._recent: dict[tuple[int, int], Piece] = {}

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch."""
        found = self.planner.piece(epoch, step)
        if found.blocks:
            self._recent[epoch, step] = found
            for outdated in list(self._recent)[:-_RECENT]:
                del self._recent[outdated]
        return found

    def seen(self) -> Mapping[str, Any]:
        """For each dataset whose blocks come with pieces, what became known of its rows so far."""
        planner: Any = self.planner
        found: Mapping[str, Any] = planner.seen()
        return found

    def renew(self) -> None:
        """Asks again for the latest pieces, whose blocks were lost."""
        for epoch, step in list(self._recent):
            self.piece(epoch, step)

    def references(self, dataset: int) -> Mapping[int, Any]:
        """The blocks of a dataset that are in the object store: all, or those of the latest pieces."""
        known = dict(self._blocks[self.names[dataset]].references)
        for piece in self._recent.values():
            known.update(piece.blocks[dataset])
        return known

    @cached_property
    def windows(self) -> list[EncodedDataset]:
        """The rows of each dataset; blocks are fetched on demand."""
        return [
            EncodedDataset(_Fetched(self, number, len(refs.rows)), refs.columns, refs.rows, refs.resident)
            for number, refs in enumerate(self._blocks.values())
        ]

    def ahead(self, source: int, rows: Indices) -> None:
        """Prefetches the blocks of some rows to this node, without waiting."""
        references = self.references(source)
        wanted = [references[block] for block in self.windows[source].blocks_of(rows)]
        if wanted:
            ray.wait(wanted, num_returns=len(wanted), timeout=0, fetch_local=True)


class SourceConfig(DataConfig):
    """Passes batch sources to workers: every rank gets the same small, picklable ones.

    Args:
        sources: One batch source per dataset name.
    """

    def __init__(self, sources: Mapping[str, RayBatchSource]) -> None:
        super().__init__()
        self._sources = dict(sources)

    def configure(
        self, datasets: Mapping[str, object], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """The batch sources of each rank."""
        return [{name: self._sources[name] for name in datasets} for _ in range(world_size)]
