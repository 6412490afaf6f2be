"""Rows that are already in memory: pyarrow tables, pandas frames, dicts of columns, lists of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ray_st.data.sources.errors import BadRow, Report, SourceError, shown
from ray_st.data.sources.part import Part
from ray_st.data.sources.row_records import Record, gather, infer, sample, value_size
from ray_st.data.sources.source import Chunk, Limits
from ray_st.data.sources.source_kinds import first_duplicate, from_values, pick, plain, type_of_values
from ray_st.util.value_checks import lone_surrogate

if TYPE_CHECKING:
    from pandas import DataFrame

PART_ROWS = 65_536
"""Number of rows in a part of an in-memory table."""


@dataclass(frozen=True)
class Slice:
    """Rows of a table. Pickling includes only these rows, not the table that they are cut from.

    Args:
        table: The rows.
        name: Name of the table in error messages.
        first: Number of the first row within the table.
    """

    table: pa.Table
    name: str
    first: int = 0
    held: ClassVar[bool] = True
    seekable: ClassVar[bool] = True
    uncounted: ClassVar[int] = 0
    decoded: ClassVar[int] = 1
    local: bool = False

    def count(self, most: int | None = None) -> int:
        """Number of rows."""
        return len(self.table)

    def counted(self, limits: Limits) -> Slice:
        """The unit itself: the number of rows is known."""
        return self

    def between(self, start: int, stop: int) -> Slice:
        """The rows from `start` up to `stop`."""
        return replace(self, table=self.table.slice(start - self.first, stop - start), first=start)

    def check_unchanged(self) -> None:
        """Tables cannot change."""

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """The rows, without copying them."""
        table = self.table.select(schema.names)
        for start in range(0, len(table), limits.rows):
            part = table.slice(start, limits.rows)
            yield Chunk(part, np.arange(self.first + start, self.first + start + len(part)))

    def __reduce__(self) -> tuple[Any, ...]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return _unpickled, (sink.getvalue().to_pybytes(), self.name, self.first)


def _unpickled(data: bytes, name: str, first: int) -> Slice:
    with pa.ipc.open_stream(data) as reader:
        return Slice(reader.read_all(), name, first)


@dataclass(frozen=True)
class Table:
    """A pyarrow table as a source.

    Args:
        table: The rows.
        name: Name in error messages.
        limits: Bounds on how much is read at a time.
    """

    table: pa.Table
    name: str = "the table"
    limits: Limits = field(default_factory=Limits)

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column; see :meth:`Source.columns`."""
        duplicate = first_duplicate(self.table.schema.names)
        if duplicate is not None:
            raise SourceError(f"{self.name}: column {duplicate!r} is there twice; rename one.")
        return pick({item.name: plain(item.type) for item in self.table.schema}, wanted, self.name)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """Parts of :data:`PART_ROWS` rows; see :meth:`Source.parts`."""
        schema = pa.schema(list(self.columns(wanted).items()))
        table = self.table.select(schema.names)
        starts = range(0, max(len(table), 1), PART_ROWS)
        units = [Slice(table.slice(start, PART_ROWS), self.name, start) for start in starts]
        return [Part(unit, schema, tuple(schema.names), limits=self.limits) for unit in units]


@dataclass(frozen=True)
class Examples:
    """Rows that come one by one: of lists, queries, streams, and datasets with a transform.

    Args:
        make: Starts an iteration over mappings from column to value; picklable.
        name: Name in error messages.
        rows: How many rows to read; None reads all.
        first: Number of the first row.
        local: Whether they can only be read on the machine that created the unit.
        held: Whether they are held in this process.
    """

    make: Callable[[], Iterator[Any]]
    name: str
    rows: int | None = None
    first: int = 0
    local: bool = True
    held: bool = True
    seekable: ClassVar[bool] = False
    uncounted: ClassVar[int] = 0
    decoded: ClassVar[int] = 1

    def count(self, most: int | None = None) -> int:
        """Number of rows, counted by reading them."""
        return sum(1 for _ in islice(islice(self.make(), self.rows), most))

    def counted(self, limits: Limits) -> Examples:
        """The unit itself: the rows are iterated over from the first one."""
        return self

    def between(self, start: int, stop: int) -> Examples:
        """The unit itself: an iteration begins at its first row."""
        return self

    def check_unchanged(self) -> None:
        """Nothing is known of what makes the rows."""

    def records(self) -> Iterator[Record]:
        """The rows; each is checked to be a mapping."""
        for row, values in enumerate(islice(self.make(), self.rows), self.first):
            if isinstance(values, Mapping):
                yield Record(row, None, values, sum(map(value_size, values.values())))
            else:
                fault = f"expected a mapping with columns as keys, found {shown(values)}"
                yield Record(row, None, {}, 0, fault, repr(values)[:200])

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """The rows, converted to the schema's types."""
        yield from gather(self.records(), schema, from_values, limits, report, self.name)

    def infer(self) -> dict[str, pa.DataType]:
        """Columns and their types, inferred from the first rows."""
        return infer(sample(self.records()), lambda _, values: type_of_values(values))


@dataclass(frozen=True)
class Rows:
    """A list of rows, each a mapping from column to value, as a source.

    An absent key is a missing value.

    Args:
        rows: The rows. Columns and types are inferred from the first ones.
        name: Name in error messages.
        limits: Bounds on how much is read at a time.
    """

    rows: Sequence[Mapping[str, Any]]
    name: str = "the list"
    limits: Limits = field(default_factory=Limits)

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column; see :meth:`Source.columns`."""
        types = Examples(partial(iter, self.rows), self.name).infer()
        if not types:
            found = shown(self.rows[0]) if len(self.rows) else "no rows"
            raise SourceError(
                f"{self.name}: expected rows that are mappings with columns as keys, found {found}."
            )
        return pick(types, wanted, self.name)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """Parts of :data:`PART_ROWS` rows; see :meth:`Source.parts`."""
        schema = pa.schema(list(self.columns(wanted).items()))
        units = [self._unit(start) for start in range(0, len(self.rows), PART_ROWS)]
        return [Part(unit, schema, tuple(schema.names), limits=self.limits) for unit in units]

    def _unit(self, start: int) -> Examples:
        rows = self.rows[start : start + PART_ROWS]
        return Examples(partial(iter, rows), self.name, first=start, local=False)


def from_columns(columns: Mapping[str, Any], name: str, limits: Limits) -> Table:
    """A dict of columns, each a sequence of values, as a source.

    Raises:
        SourceError: If columns are not sequences of equal length, or contain values of several types.
    """
    for column, values in columns.items():
        if isinstance(values, str | bytes) or not isinstance(values, Sized):
            raise SourceError(
                f"{name}: column {column!r}: expected a sequence of values, found {shown(values)}."
            )
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise SourceError(f"{name}: columns must have one length, found {lengths}.")
    return Table(pa.table({key: _array(key, values, name) for key, values in columns.items()}), name, limits)


def from_pandas(frame: DataFrame, name: str, limits: Limits) -> Table:
    """A pandas frame as a source, without its index; NaN and None are missing values.

    Raises:
        SourceError: If column names are not strings, or columns contain values of several types.
    """
    odd = next((column for column in frame.columns if not isinstance(column, str)), None)
    if odd is not None:
        raise SourceError(f"{name}: columns must be named by words, found {shown(odd)}; set frame.columns.")
    names = list(frame.columns)
    arrays = [_array(column, frame.iloc[:, place], name) for place, column in enumerate(names)]
    return Table(pa.Table.from_arrays(arrays, names=names), name, limits)


def _array(column: str, values: Iterable[object], name: str) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values, from_pandas=True)
    except (ValueError, TypeError, OverflowError):
        plain_values = list(values)
        kind = type_of_values(plain_values)
        array, odd = from_values(plain_values, kind)
        if odd:
            raise SourceError(_odd(BadRow(name, odd[0], "", column), plain_values[odd[0]], kind)) from None
        return array


def _odd(where: BadRow, value: object, kind: pa.DataType) -> str:
    half = lone_surrogate(value) if isinstance(value, str) else None
    if half is not None:
        return f"{replace(where, reason=half)}."
    reason = f"expected {kind}, as the values before, found {shown(value)}"
    return f"{replace(where, reason=reason)}. Make all values of one type."
