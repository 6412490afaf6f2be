"""Arrow files: the IPC file format (Feather) and the IPC stream format, which ``datasets`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ray_st.data.sources.errors import Report, SourceError, reading
from ray_st.data.sources.places import File, FileUnit
from ray_st.data.sources.source import Chunk, Limits
from ray_st.data.sources.source_kinds import plain

_KIND = "Arrow"
_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"


@dataclass(frozen=True)
class ArrowFile(FileUnit):
    """An Arrow file.

    A local file is memory-mapped; of a remote file, one record batch is held at a time.

    Args:
        file: The file.
    """

    first: int = 0

    @property
    def seekable(self) -> bool:
        """A file that is mapped into memory is gone through without reading its values."""
        return self.file.local

    def count(self, most: int | None = None) -> int:
        """Number of rows, counted by going through the record batches."""
        with reading(self.name, _KIND), _opened(self.file) as reader:
            return sum(len(batch) for batch in _batches(reader))

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """The rows, one record batch at a time."""
        first = 0
        with reading(self.name, _KIND), _opened(self.file) as reader:
            for batch in _batches(reader):
                table = pa.Table.from_batches([batch]).select(schema.names)
                for start in range(0, len(batch), limits.rows):
                    part = table.slice(start, limits.rows)
                    yield Chunk(part, np.arange(first + start, first + start + len(part)))
                first += len(batch)


def open_arrow(file: File) -> tuple[dict[str, pa.DataType], list[ArrowFile]]:
    """Columns of an Arrow file, and the file as a single unit."""
    with reading(file.name, _KIND), _opened(file) as reader:
        columns = {field.name: plain(field.type) for field in reader.schema}
    return columns, [ArrowFile(file)]


@contextmanager
def _opened(file: File) -> Iterator[Any]:
    with file.open_random() as handle:
        magic = handle.read(6)
        handle.seek(0)
        if magic.startswith(_FEATHER_1_MAGIC):
            raise SourceError(
                f"{file.name}: is in the old Feather format 1; write it again with pyarrow.feather."
            )
        open_reader = pa.ipc.open_file if magic == _FILE_MAGIC else pa.ipc.open_stream
        with open_reader(handle) as reader:
            yield reader


def _batches(reader: pa.RecordBatchFileReader | pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(place) for place in range(reader.num_record_batches))
    return iter(reader)
