"""Opens a source as a Ray Dataset and maps over it once: rows in, encoded blocks in the object store out."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
import ray
import ray.data

from ray_st.data.encode import FAULT, Encoding, check_faults, encode_block, keys_of_blocks
from ray_st.data.keys import Keys

BLOCK_ROWS = 8192
"""Rows of a block. Readers split and merge as they like; the order of samples must not depend on it."""


@dataclass(frozen=True)
class Ingested:
    """Encoded rows of a source.

    Args:
        blocks: References to the encoded blocks, in order. The process that made them owns them.
        keys: Keys of all rows.
    """

    blocks: list[ray.ObjectRef[Any]]
    keys: Keys


def ingest(source: Any, encoding: Encoding, name: str) -> Ingested:
    """Checks and encodes all rows of a source, in parallel, in order.

    Args:
        source: A :class:`datasets.Dataset` or a Ray Dataset.
        encoding: What to make of its rows.
        name: What to call the source in errors.

    Raises:
        RowError: If rows cannot be used.
    """
    rows = open_source(source, encoding)
    encoded = rows.map_batches(
        functools.partial(encode_block, encoding=encoding),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
    ).materialize()
    blocks = [entry.ref for bundle in encoded.iter_internal_ref_bundles() for entry in bundle.blocks]
    key_tables, faults = [], []
    for block in blocks:
        table: pa.Table = ray.get(block)
        if not len(table):
            continue
        faults.append(table[FAULT].combine_chunks())
        key_tables.append(table)
    check_faults(faults, name)
    return Ingested(blocks, keys_of_blocks(key_tables, encoding.columns))


def open_source(source: Any, encoding: Encoding) -> ray.data.Dataset:
    """A Ray Dataset of the columns that are read, in blocks of :data:`BLOCK_ROWS` rows, in the source's order."""
    names = list(encoding.columns.names)
    if isinstance(source, datasets.Dataset):
        tables = [
            table.select(names).combine_chunks()
            for table in source.with_format("arrow").iter(batch_size=BLOCK_ROWS)
        ]
        opened = ray.data.from_arrow(tables)
    else:
        opened = source.select_columns(names).repartition(target_num_rows_per_block=BLOCK_ROWS)
    opened.context.execution_options.preserve_order = True
    opened.context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plan and its timings, for each dataset
    return opened
