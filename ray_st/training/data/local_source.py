"""A run in this process, without Ray: for tests, and for machines that have none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_st.data.batch_source import MemoryBatchSource, Planner
from ray_st.data.dataset_stats import describe_blocks
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.encoding import encode_block
from ray_st.data.located import read_located
from ray_st.data.sources import as_source
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.arrangement import arrange, check_ingested, fingerprint
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec, eval_names
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World


def encode_here(dataset: DatasetSpec, block_rows: int | None = None) -> list[pa.Table]:
    """The encoded rows of a dataset, in order.

    Args:
        dataset: Anything but a Ray Dataset.
        block_rows: Rows of each block but the last; None for a single block.
    """
    parts = as_source(dataset.source, dataset.label).parts(list(dataset.encoding.columns.names))
    rows = pa.concat_tables([table for part in parts for table in read_located(part)])
    size = block_rows or max(len(rows), 1)
    starts = range(0, max(len(rows), 1), size)
    return [encode_block(rows.slice(start, size), dataset.encoding) for start in starts]


def memory_feed(part: LoaderSpec) -> MemoryBatchSource:
    """Encodes datasets here and plans their batches; see :func:`feed_with_facts`."""
    return feed_with_facts(part)[0]


def feed_with_facts(part: LoaderSpec) -> tuple[MemoryBatchSource, dict[str, Any]]:
    """Encodes datasets here and plans their batches.

    Args:
        part: The datasets of a feed; anything but Ray Datasets.

    Returns:
        The feed, and what the order of its samples depends on.

    Raises:
        ValueError: If rows cannot be used.
    """
    windows, ingested = {}, {}
    for name, dataset in part.datasets.items():
        columns, blocks = dataset.encoding.columns, encode_here(dataset)
        windows[name], ingested[name] = EncodedDataset(blocks, columns), describe_blocks(blocks, columns)
    check_ingested(part, ingested)
    arrangement = arrange(part, ingested)
    planner = Planner(arrangement.sampler, arrangement.epochs, arrangement.usable)
    return MemoryBatchSource(windows, planner), fingerprint(part, ingested, planner.plan(0))


def local_place(
    parts: Mapping[str, LoaderSpec], folder: str | Path, world: World | None = None, **options: Any
) -> WorkerContext:
    """The surroundings of a worker in this process.

    Args:
        parts: The run's datasets, by feed name.
        folder: Where checkpoints go.
        world: Who this process is; alone by default.
        options: Other fields of :class:`WorkerContext`.
    """
    made = {name: feed_with_facts(part) for name, part in parts.items()}
    feeds = {name: feed for name, (feed, _) in made.items()}
    facts = made[TRAIN][1] if TRAIN in made else {}
    store = CheckpointStore(str(Path(folder).absolute()), run_id="local")
    given = {"facts": facts, **options}
    return WorkerContext(world or World(), store, train=feeds.get(TRAIN), evals=eval_names(feeds), **given)
