"""Batch sources in this process, without a cluster: for tests, debugging, and single machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_st.data.batch_source import MemoryBatchSource
from ray_st.data.located import read_located
from ray_st.data.sources import as_source
from ray_st.data.token_cache import BlockEncoder
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.source_builder import BuiltSource, build_in_memory, facts_of, sources_of
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec, eval_names
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World


def rows_of(dataset: DatasetSpec) -> pa.Table:
    """The unencoded rows of a dataset, in order; not for Ray Datasets."""
    parts = as_source(dataset.source, dataset.label).parts(list(dataset.encoding.columns.names))
    return pa.concat_tables([table for part in parts for table in read_located(part)])


def encode_here(dataset: DatasetSpec, encoder: BlockEncoder, block_rows: int | None = None) -> list[pa.Table]:
    """The encoded rows of a dataset, in order.

    Args:
        dataset: Anything but a Ray Dataset.
        encoder: Encodes its blocks.
        block_rows: Rows of each block but the last; None for a single block.
    """
    rows = rows_of(dataset)
    size = block_rows or max(len(rows), 1)
    starts = range(0, max(len(rows), 1), size)
    return [encoder(rows.slice(start, size)) for start in starts]


def build_here(spec: LoaderSpec) -> BuiltSource[MemoryBatchSource]:
    """Encodes datasets in this process, each in one block, and plans their batches.

    Args:
        spec: The datasets; anything but Ray Datasets.

    Raises:
        ValueError: If rows cannot be used.
    """
    return build_in_memory(spec, encode_here)


def local_context(
    specs: Mapping[str, LoaderSpec], folder: str | Path, world: World | None = None, **options: Any
) -> WorkerContext:
    """The context of a worker in this process.

    Args:
        specs: The run's datasets, by the name of their batch source.
        folder: The folder for checkpoints.
        world: This process's rank and the number of ranks; a single rank by default.
        options: Other fields of :class:`WorkerContext`.
    """
    built = {name: build_here(spec) for name, spec in specs.items()}
    sources = sources_of(built)
    store = CheckpointStore(str(Path(folder).absolute()), run_id="local")
    given = {"facts": facts_of(built), **options}
    return WorkerContext(
        world or World(), store, train=sources.get(TRAIN), evals=eval_names(sources), **given
    )
