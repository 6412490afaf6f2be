"""Opens a source as a Ray Dataset and encodes it in one pass into blocks in the object store."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray import cloudpickle

from ray_st.data import segments
from ray_st.data.dataset_stats import DatasetStats, describe_blocks
from ray_st.data.encoding import FAULT, TOKENS, TRUNCATED, Encoding, hash_of
from ray_st.data.located import read_located
from ray_st.data.sources import Part, as_source
from ray_st.data.sources.row_counts import known_rows
from ray_st.data.sources.source import MIB
from ray_st.data.token_cache import BlockEncoder, CacheUse, TokenCache
from ray_st.runtime.cluster.connection import NODE_ID, resources, this_node
from ray_st.runtime.cluster.pickled import Carried
from ray_st.runtime.train.driver_memory import check_need, driver_need
from ray_st.util.events import notes
from ray_st.util.free_memory import available_memory

_WINDOW_SHARE = 0.15
"""Of a store. Where rows that fill no batch of a window are carried over into the next, three windows are in
it and a part of a fourth; Ray begins to write objects to the disk when 0.8 of it are full."""
_MOST_MEMORY = 0.6  # no two tasks have it


@dataclass(frozen=True)
class EncodedBlocks:
    """An encoded dataset in the object store.

    Args:
        references: Its blocks, in order, owned by the process that created them.
        stats: Statistics of its rows.
        cache_use: What a token cache was used for.
    """

    references: list[Any]
    stats: DatasetStats
    cache_use: CacheUse = CacheUse()  # noqa: RUF009  frozen


def ingest(source: object, encoding: Encoding, label: str, cache: TokenCache | None = None) -> EncodedBlocks:
    """Encodes all rows of a source, in parallel, in order.

    Ray spills blocks to disk if they exceed the object store.

    Args:
        source: A Ray Dataset, or anything that :func:`ray_st.data.sources.as_source` accepts.
        encoding: How to encode its rows.
        label: Name of the source in error messages.
        cache: Where encoded rows are kept for other runs; None for nowhere.

    Raises:
        ValueError: If this process has no memory for the rows' keys.
    """
    encoder = BlockEncoder.of(encoding, cache, label)
    encoded = (
        open_source(source, encoding, label)
        .map_batches(
            functools.partial(_encode, encoder=Carried(encoder)),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            **beside_workers(),
        )
        .materialize()
    )
    if known_rows(source) is None:  # otherwise it was checked before
        need = driver_need([(encoded.count(), len(encoding.columns.texts))], sent=0, whole=[label])
        check_need(need, available_memory())
    references = [entry.ref for bundle in encoded.iter_internal_ref_bundles() for entry in bundle.blocks]
    return _described(references, encoder)


def _encode(block: pa.Table, encoder: Carried[BlockEncoder]) -> pa.Table:
    return encoder.value(block)


def _described(references: list[Any], encoder: BlockEncoder) -> EncodedBlocks:
    columns = encoder.encoding.columns
    label = [columns.label] if columns.label else []
    names = [*map(hash_of, columns.texts), *label, TOKENS, TRUNCATED, FAULT]
    pick = ray.remote(_without_tokens).options(**beside_workers())
    picked = ray.get([pick.remote(reference, names) for reference in references])
    tables = [table for table, _ in picked]
    stats = describe_blocks(tables, columns, [size for _, size in picked])
    return EncodedBlocks(references, stats, encoder.use(tables))


def _without_tokens(block: pa.Table, names: list[str]) -> tuple[pa.Table, int]:
    """The columns that planning needs, and the size of the whole block; runs on the block's node."""
    return (block.select(names) if len(block) else block), block.nbytes


def open_source(source: object, encoding: Encoding, label: str) -> ray.data.Dataset:
    """A Ray Dataset of the columns to read, in order, a segment in each block."""
    names = list(encoding.columns.names)
    if isinstance(source, ray.data.Dataset):
        opened = source.select_columns(names)
    else:
        parts = as_source(source, label).parts(names)
        opened = _from_here(parts) if any(part.held for part in parts) else _from_tasks(parts)
    # Without `strict` Ray splits the output of each read task at most, and often not even that.
    opened = opened.repartition(target_num_rows_per_block=segments.ROWS, strict=True)
    step: Any = opened._logical_plan.dag  # `repartition` itself accepts no task options
    step.ray_remote_args.update(beside_workers())
    opened.context.execution_options.preserve_order = True
    opened.context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # hides its plan, timings and CPU warnings
    return opened


def _from_here(parts: Sequence[Part]) -> ray.data.Dataset:
    """Rows held by this process, put into the object store table by table."""
    references: list[Any] = [ray.put(table) for part in parts for table in read_located(part)]
    return ray.data.from_arrow_refs(references)


def _from_tasks(parts: Sequence[Part]) -> ray.data.Dataset:
    """Files and queries, one read task per part; parts local to this machine are read on it."""
    pickled = pa.table({"part": pa.array([cloudpickle.dumps(part) for part in parts], pa.large_binary())})
    options = on_this_machine() if any(part.local for part in parts) else beside_workers()
    tables = [pickled.slice(row, 1) for row in range(len(pickled))]
    return ray.data.from_arrow(tables).map_batches(
        _read_part, batch_size=None, batch_format="pyarrow", **options
    )


def beside_workers() -> dict[str, Any]:
    """Options of tasks that create blocks: as many at a time as the nodes have CPUs, without reserving any.

    If a node is lost, Ray recreates its blocks by rerunning the original tasks with their original options,
    while workers may hold every CPU. So each task requests one CPU's share of memory instead, on nodes that
    have CPUs.

    Returns:
        Ray's task options; empty, meaning one CPU each, if no node has CPUs yet.
    """
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    without = [node for node, owned in nodes.items() if not owned.get("CPU")]
    able = [owned for node, owned in nodes.items() if node not in without]
    where = {"label_selector": {NODE_ID: f"!in({','.join(without)})"}} if without else {}
    return _without_cpu(able) | where if able else {}


def _without_cpu(nodes: list[dict[str, float]]) -> dict[str, Any]:
    share = sum(node.get("memory", 0) for node in nodes) / sum(node["CPU"] for node in nodes)
    return {"num_cpus": 0, "memory": int(share)}


def on_this_machine() -> dict[str, Any]:
    """Options of tasks that read data local to this machine.

    They run one at a time if Ray has no CPUs here, as on a cluster's head node.
    """
    own = resources(here=True)
    one_at_a_time = {"num_cpus": 0, "memory": int(_MOST_MEMORY * own.get("memory", 0))}
    return (_without_cpu([own]) if own.get("CPU") else one_at_a_time) | {"label_selector": this_node()}


def _read_part(table: pa.Table) -> Iterator[pa.Table]:
    yield from read_located(cloudpickle.loads(table["part"][0].as_py()))


def object_stores() -> list[float]:
    """Bytes of the object store of each node; 0 for one without."""
    return [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]]


def check_windows(
    stats: Mapping[str, DatasetStats], window_rows: int | None, rows: Mapping[str, int] | None = None
) -> None:
    """Logs if windows are too large for a node's object store.

    Ranks that are all on one node map whole windows. Those on several nodes read their own rows, but blocks
    may still all lie on one.

    Args:
        stats: Statistics of the datasets, by name, or of some of their rows.
        window_rows: Rows that are shuffled at once; None for all.
        rows: Number of rows of each dataset; by default those of its statistics.
    """
    stores = object_stores()
    room = int(_WINDOW_SHARE * min(store for store in stores if store))
    for name, described in stats.items():
        whole = described.rows if rows is None else rows[name]
        window = min(whole, window_rows or whole)
        size = described.size * window // max(described.rows, 1)
        if size > room:
            fitting = window * room // size // segments.ROWS * segments.ROWS
            advice = f"window_rows={fitting} fits" if fitting else "no window fits: give nodes larger ones"
            notes.warning(
                f"{name or 'the data'}: {window:,} rows, shuffled at once, take {size / MIB:,.0f} MiB, more "
                f"than {_WINDOW_SHARE:.0%} of the smallest node's object store ({room / MIB:,.0f} MiB): "
                f"blocks may be read from disk again and again; {advice}."
            )
