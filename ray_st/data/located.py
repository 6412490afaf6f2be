"""Rows on their way from a source to the encoder, with where each is from and what the reader found wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_st.data.sources import ROW, BadRow, Part

FILE, READ_FAULT = "source_file", "source_fault"


def read_located(part: Part) -> Iterator[pa.Table]:
    """Reads a part, all its rows in order; each knows its file and its number there.

    Rows that are in memory have no file: their number among all rows says enough. A row that cannot be read
    is passed on in its place without values and with the reason, so that whoever counts rows counts it.

    Args:
        part: What to read.
    """
    aside: list[BadRow] = []
    for table in part.read(report=aside.append, numbered=True):
        nothing = pa.nulls(len(table), pa.string())
        located = table.append_column(FILE, _file(part, len(table))).append_column(READ_FAULT, nothing)
        # A reader may have looked further ahead than to the end of the table that it hands over.
        last = located[ROW][-1].as_py()
        here = [bad for bad in aside if bad.row < last]
        aside[:] = [bad for bad in aside if bad.row > last]
        yield pa.concat_tables([located, _faulty(part, here)]).sort_by(ROW) if here else located
    if aside:
        yield _faulty(part, aside)


def _file(part: Part, rows: int) -> pa.Array:
    place = None if part.held else 0
    return pa.DictionaryArray.from_arrays(
        pa.array([place] * rows, pa.int32()), pa.array([part.name], pa.string())
    )


def _faulty(part: Part, aside: list[BadRow]) -> pa.Table:
    fields = zip(part.names, part.schema.types, strict=True)
    columns: dict[str, pa.Array] = {name: pa.nulls(len(aside), kind) for name, kind in fields}
    columns[ROW] = pa.array([bad.row for bad in aside], pa.int64())
    columns[FILE] = _file(part, len(aside))
    columns[READ_FAULT] = pa.array([str(bad) for bad in aside], pa.string())
    return pa.table(columns)
