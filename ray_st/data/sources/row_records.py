"""Turns records (one Python mapping per row) into chunks: shared by text files, queries and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ray_st.data.sources.errors import BadRow, Report, SourceError, shown, snippet
from ray_st.data.sources.source import Chunk, Limits
from ray_st.data.sources.source_kinds import Converted
from ray_st.util.value_checks import lone_surrogate

SAMPLE_ROWS = 1000
"""Number of first rows of a text file, query or stream from which column types are inferred."""

_SAMPLE_BYTES = 4 << 20

Convert = Callable[[Sequence[Any], pa.DataType], Converted]


class Record(NamedTuple):
    """A row as read.

    Args:
        row: Its 0-based number.
        line: The 1-based line of a text file on which it starts; None for other sources.
        values: Its values by column; absent columns are missing values.
        size: Approximate size in bytes.
        fault: Why it is unusable, or None.
        raw: The beginning of a faulty row.
    """

    row: int
    line: int | None
    values: Mapping[str, Any]
    size: int
    fault: str | None = None
    raw: str | bytes = ""


def value_size(value: object) -> int:
    """Approximate size of a Python value in bytes."""
    if isinstance(value, str | bytes | list | tuple):
        return 16 + len(value) * (1 if isinstance(value, str | bytes) else 8)
    return 16


def sample(records: Iterable[Record]) -> list[Record]:
    """The first usable rows, bounded in number and size."""
    return [record for record in _first(records) if record.fault is None]


def sample_of_some(records: Iterable[Record], name: str) -> list[Record]:
    """The first usable rows, for sources whose columns can only be inferred from rows.

    Args:
        records: The rows.
        name: Name of the source in error messages.

    Raises:
        SourceError: If there are rows but the first ones are unusable.
    """
    first = list(_first(records))
    found = [record for record in first if record.fault is None]
    if first and not found:
        raise SourceError(f"{_bad(first[0], name)}; of {len(first)} row(s) looked at none can be used.")
    return found


def _first(records: Iterable[Record]) -> Iterator[Record]:
    size = 0
    for record in islice(records, SAMPLE_ROWS):
        yield record
        size += record.size
        if size > _SAMPLE_BYTES:
            break


def _bad(record: Record, name: str) -> BadRow:
    assert record.fault is not None
    return BadRow(name, record.row, record.fault, line=record.line, raw=snippet(record.raw))


def infer(
    records: Sequence[Record],
    type_of: Callable[[str, Sequence[Any]], pa.DataType],
    names: Sequence[str] | None = None,
) -> dict[str, pa.DataType]:
    """Columns in order of first appearance, and their types.

    Args:
        records: The first rows.
        type_of: Infers the type of a column from its name and values.
        names: The columns, if a header gives them.
    """
    if names is None:
        names = list(dict.fromkeys(name for record in records for name in record.values))
    return {name: type_of(name, [record.values.get(name) for record in records]) for name in names}


def gather(
    records: Iterable[Record], schema: pa.Schema, convert: Convert, limits: Limits, report: Report, name: str
) -> Iterator[Chunk]:
    """Collects records into chunks within the limits and reports unusable ones.

    Args:
        records: The rows.
        schema: Columns to keep, and their types.
        convert: Makes a column of a given type from values.
        limits: Bounds on a chunk.
        report: Called for each unusable row.
        name: Name of the source in error messages.
    """
    held: list[Record] = []
    size = 0
    for record in records:
        if record.fault is not None:
            report(_bad(record, name))
            continue
        if held and (len(held) >= limits.rows or size + record.size > limits.bytes):
            yield _chunk(held, schema, convert, report, name)
            held, size = [], 0
        held.append(record)
        size += record.size
    if held:
        yield _chunk(held, schema, convert, report, name)


def _chunk(
    records: Sequence[Record], schema: pa.Schema, convert: Convert, report: Report, name: str
) -> Chunk:
    keep = np.ones(len(records), dtype=bool)
    arrays = []
    for field in schema:
        values = [record.values.get(field.name) for record in records]
        array, odd = convert(values, field.type)
        arrays.append(array)
        for place in (place for place in odd if keep[place]):
            report(_odd(records[place], field, values[place], name))
            keep[place] = False
    rows = np.fromiter((record.row for record in records), dtype=np.int64, count=len(records))
    return Chunk(pa.Table.from_arrays(arrays, schema=schema), rows).take(keep)


def _odd(record: Record, field: pa.Field, value: object, name: str) -> BadRow:
    half = lone_surrogate(value) if isinstance(value, str) else None
    reason = half or (
        f"expected {field.type}, as the first rows or `types` say, found {shown(value)}; "
        f"another type is set with types: {{{field.name}: …}}"
    )
    return BadRow(name, record.row, reason, field.name, record.line, snippet(repr(value)))
