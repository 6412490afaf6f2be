"""Parquet files, read by row group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_st.data.sources.cells import cell_sizes
from ray_st.data.sources.errors import Report, reading
from ray_st.data.sources.places import File, FileUnit
from ray_st.data.sources.source import MIB, Chunk, Limits
from ray_st.data.sources.source_kinds import plain
from ray_st.util.arrow import is_text

UNIT_BYTES = 128 * MIB
"""Approximate number of uncompressed bytes that a task reads."""

_KIND = "Parquet"
_BUFFER = 4 * MIB
_PROBED_ROWS = 16


@dataclass(frozen=True)
class RowGroups(FileUnit):
    """Consecutive row groups of a Parquet file.

    Args:
        file: The file.
        groups: The row groups.
        first: Number of their first row within the file.
        rows: Number of rows in them.
        wanted: The rows to read, by their number in the file; None for all. Row groups without any are
            skipped.
    """

    groups: range
    first: int
    rows: int
    wanted: range | None = None

    @property
    def seekable(self) -> bool:
        """Footers count rows, and row groups are read one by one."""
        return True

    def between(self, start: int, stop: int) -> RowGroups:
        """The same row groups; those without a row from `start` up to `stop` are not read."""
        return replace(self, wanted=range(start, stop))

    @property
    def decoded(self) -> int:
        """Rows of a row group: it is decoded from its first row on."""
        return -(-self.rows // len(self.groups))

    def count(self, most: int | None = None) -> int:
        """Number of rows, from the footer."""
        return self.rows

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """The rows, one row group at a time."""
        first = self.first
        with reading(self.name, _KIND), self.file.open_random() as handle:
            file = pq.ParquetFile(handle, pre_buffer=False, buffer_size=_BUFFER)
            for group in self.groups:
                rows = file.metadata.row_group(group).num_rows
                if self.wanted is not None and (
                    first + rows <= self.wanted.start or first >= self.wanted.stop
                ):
                    first += rows
                    continue
                batches = file.iter_batches(
                    batch_size=_batch_rows(handle, file.metadata, group, schema, limits),
                    row_groups=[group],
                    columns=schema.names,
                    use_threads=False,
                )
                for batch in batches:
                    yield Chunk(pa.Table.from_batches([batch]), np.arange(first, first + len(batch)))
                    first += len(batch)


def open_parquet(file: File) -> tuple[dict[str, pa.DataType], list[RowGroups]]:
    """Columns of a Parquet file and its units, read from its footer."""
    with reading(file.name, _KIND), file.open_random() as handle:
        opened = pq.ParquetFile(handle)
        metadata, schema = opened.metadata, opened.schema_arrow
    columns = {field.name: plain(field.type) for field in schema}
    units: list[RowGroups] = []
    start, first, rows, size = 0, 0, 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        size += metadata.row_group(group).total_byte_size
        if size >= UNIT_BYTES or group == metadata.num_row_groups - 1:
            units.append(RowGroups(file, range(start, group + 1), first, rows))
            start, first, rows, size = group + 1, first + rows, 0, 0
    return columns, units


def _batch_rows(
    handle: pa.NativeFile, metadata: pq.FileMetaData, group: int, schema: pa.Schema, limits: Limits
) -> int:
    """How many rows of a row group to decode at a time."""
    facts = metadata.row_group(group)
    row_bytes = facts.total_byte_size // max(facts.num_rows, 1) + 1
    largest = _largest_shared(
        handle, metadata, group, [field.name for field in schema if is_text(field.type)]
    )
    return int(min(max(limits.bytes // max(row_bytes, largest), 1), limits.rows))


def _largest_shared(handle: pa.NativeFile, metadata: pq.FileMetaData, group: int, texts: list[str]) -> int:
    """Bytes of the longest text in a row group's dictionaries: decoding repeats it for each of its rows."""
    if not texts:
        return 0
    coded = pq.ParquetFile(handle, metadata=metadata, read_dictionary=texts, buffer_size=_BUFFER)
    batches = coded.iter_batches(_PROBED_ROWS, row_groups=[group], columns=texts, use_threads=False)
    first = next(batches, None)
    if first is None:
        return 0
    shared = [array.dictionary for array in first.columns if isinstance(array, pa.DictionaryArray)]
    return max((int(cell_sizes(values).max(initial=0)) for values in shared), default=0)
