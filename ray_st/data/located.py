"""Rows between a source and the encoder, with their origin and any fault that the reader found."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_st.data.sources import ROW, BadRow, Part

FILE, READ_FAULT = "source_file", "source_fault"


def read_located(part: Part) -> Iterator[pa.Table]:
    """Reads all rows of a part in order, each with its file and its row number there.

    Rows in memory have no file: their number among all rows identifies them. A row that cannot be read is
    passed on without values but with the reason, so that row counts stay correct.

    Args:
        part: What to read.
    """
    for table, unread in read_with_faults(part):
        if table is None:
            yield _faulty(part, unread)
            continue
        nothing = pa.nulls(len(table), pa.string())
        located = table.append_column(FILE, _file(part, len(table))).append_column(READ_FAULT, nothing)
        yield pa.concat_tables([located, _faulty(part, unread)]).sort_by(ROW) if unread else located


def read_with_faults(part: Part) -> Iterator[tuple[pa.Table | None, list[BadRow]]]:
    """Reads all rows of a part in order: tables with row numbers, and the rows that cannot be read.

    Args:
        part: What to read.

    Returns:
        Each table with the unreadable rows before its last row; at the end None with those that are left.
    """
    aside: list[BadRow] = []
    for table in part.read(report=aside.append, numbered=True):
        # A reader may have looked ahead, beyond the end of the table that it yields.
        last = table[ROW][-1].as_py()
        here = [bad for bad in aside if bad.row < last]
        aside[:] = [bad for bad in aside if bad.row > last]
        yield table, here
    if aside:
        yield None, sorted(aside, key=lambda bad: bad.row)


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
