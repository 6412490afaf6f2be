"""A run in this process, without Ray: for tests, and for machines that have none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_st.data.encode import FAULT, check_faults, encode_block, keys_of_blocks
from ray_st.data.feed import MemoryFeed, Planner
from ray_st.data.window import Window
from ray_st.training.checkpoint import CheckpointStore
from ray_st.training.place import Place
from ray_st.training.run import TRAIN_FEED, DataPart, eval_names
from ray_st.world import World


def memory_feed(part: DataPart) -> MemoryFeed:
    """Encodes a :class:`datasets.Dataset` here and plans its batches.

    Args:
        part: One dataset of a run.

    Raises:
        RowError: If rows cannot be used.
    """
    table = part.source.with_format("arrow")[:].select(list(part.encoding.columns.names))
    block = encode_block(table, part.encoding)
    check_faults([block[FAULT].combine_chunks()], part.name)
    keys = keys_of_blocks([block], part.encoding.columns)
    planner = Planner(part.make_sampler(keys), part.epochs(len(keys)))
    return MemoryFeed(Window([block], part.encoding.columns), planner)


def local_place(
    parts: Mapping[str, DataPart], folder: str | Path, world: World | None = None, **options: Any
) -> Place:
    """The surroundings of a worker in this process.

    Args:
        parts: The run's datasets, by feed name.
        folder: Where checkpoints go.
        world: Who this process is; alone by default.
        options: Other fields of :class:`Place`.
    """
    feeds = {name: memory_feed(part) for name, part in parts.items()}
    store = CheckpointStore(str(Path(folder).absolute()), run_id="local")
    return Place(world or World(), store, train=feeds.get(TRAIN_FEED), evals=eval_names(feeds), **options)
