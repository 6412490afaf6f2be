"""Rows on their way from a source to the encoder, with where each comes from and what the reader found wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_st.data.sources import ROW, BadRow, Part

FILE, READ_FAULT = "source_file", "source_fault"


def read_located(part: Part) -> Iterator[pa.Table]:
    """Reads a part; each row knows its file and its number there.

    Rows that are in memory have no file: their number among all rows says enough. A row that cannot be read is passed on without values and with the reason, so that whoever counts rows counts it.

    Args:
        part: What to read.
    """
    aside: list[BadRow] = []
    for table in part.read(report=aside.append, numbered=True):
        nothing = pa.nulls(len(table), pa.string())
        located = table.append_column(FILE, _file(part, len(table)))
        yield located.append_column(READ_FAULT, nothing)
        if aside:
            yield _faulty(part, aside, located.schema)
            aside.clear()
    if aside:
        schema = pa.schema([*_fields(part), pa.field(ROW, pa.int64()), pa.field(FILE, _FILE_TYPE)])
        yield _faulty(part, aside, schema)


_FILE_TYPE = pa.dictionary(pa.int32(), pa.string())


def _fields(part: Part) -> list[pa.Field]:
    return [pa.field(name, field.type) for name, field in zip(part.names, part.schema, strict=True)]


def _file(part: Part, rows: int) -> pa.Array:
    place = None if part.held else 0
    return pa.DictionaryArray.from_arrays(
        pa.array([place] * rows, pa.int32()), pa.array([part.name], pa.string())
    )


def _faulty(part: Part, aside: list[BadRow], schema: pa.Schema) -> pa.Table:
    columns = {field.name: pa.nulls(len(aside), field.type) for field in schema}
    columns[ROW] = pa.array([bad.row for bad in aside], pa.int64())
    columns[FILE] = _file(part, len(aside))
    columns[READ_FAULT] = pa.array([str(bad) for bad in aside], pa.string())
    return pa.table(columns)
