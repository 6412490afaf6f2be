"""A part of a source: what one task reads, turned from raw chunks into validated tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ray_st.data.sources.cells import bounded, cell_sizes, flat, not_utf8
from ray_st.data.sources.errors import BadRow, Report, raise_bad_row, shown, snippet
from ray_st.data.sources.source import Chunk, Limits, Unit
from ray_st.data.sources.source_kinds import cast

ROW = "source_row"
"""Name of the optional column with each row's number in its file."""


@dataclass(frozen=True)
class Part:
    """Rows of a source that are read together. Picklable; every read starts over.

    Args:
        unit: What is read.
        schema: The unit's columns to read, with their target types.
        names: Final names of the columns.
        start: Number of the first row, in the numbering of the unit's file.
        stop: Number after the last row; None reads to the end.
        limits: Bounds on the tables.
    """

    unit: Unit
    schema: pa.Schema
    names: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    limits: Limits = Limits()  # noqa: RUF009 - frozen

    @property
    def name(self) -> str:
        """The file, table or query, for error messages; together with :data:`ROW` it identifies a row."""
        return self.unit.name

    @property
    def local(self) -> bool:
        """Whether it can only be read on the machine that created it, or one that shares its files."""
        return self.unit.local

    @property
    def seekable(self) -> bool:
        """Whether rows are counted without reading them, and can be read from any of them on."""
        return self.unit.seekable

    @property
    def uncounted(self) -> int:
        """Bytes that :meth:`counted` goes through to make the part seekable; 0 if it would not."""
        return self.unit.uncounted

    def counted(self) -> Part:
        """The part with its rows counted, if its format allows that without parsing them.

        Raises:
            SourceError: If the file cannot be read.
        """
        return replace(self, unit=self.unit.counted(self.limits))

    @property
    def held(self) -> bool:
        """Whether the rows are held in this process, so that sending the part would send them too."""
        return self.unit.held

    def count(self, most: int | None = None) -> int:
        """Number of rows, including unusable ones: from a footer if there is one, otherwise by reading.

        Args:
            most: Counting may stop at this number.
        """
        if self.stop is None:
            skipped = self._base - self.unit.first
            return max(self.unit.count(None if most is None else most + skipped) - skipped, 0)
        return max(self.stop - self._base, 0)

    def within(self, start: int, stop: int) -> Part:
        """The part of rows `start` up to `stop`, counted from this part's first row."""
        first, end = self._base + start, self._base + stop
        end = end if self.stop is None else min(end, self.stop)
        return replace(self, unit=self.unit.between(first, end), start=first, stop=end)

    def chosen(self, columns: Sequence[tuple[str, str]]) -> Part:
        """The part restricted to some columns: for each its name here, and its new name."""
        places = {name: place for place, name in enumerate(self.names)}
        schema = pa.schema([self.schema.field(places[old]) for old, _ in columns])
        return replace(self, schema=schema, names=tuple(new for _, new in columns))

    def read(self, report: Report | None = None, numbered: bool = False) -> Iterator[pa.Table]:
        """Reads the rows in order.

        Args:
            report: Called once for each unusable row; without it, the first one raises an error.
            numbered: Whether to add the column :data:`ROW` (int64).

        Returns:
            Tables of at most ``limits.rows`` rows and ``limits.bytes`` bytes (a single row may be larger),
            with :attr:`names` as columns and the schema's types.

        Raises:
            SourceError: If the file cannot be read, or, without `report`, a row is unusable.
        """
        take = self._report(report or raise_bad_row)
        for chunk in self.unit.chunks(self.schema, self.limits, take):
            if self.stop is not None and len(chunk.rows) and chunk.rows[0] >= self.stop:
                return
            usable = self._checked(self._cut(chunk), take)
            for piece in bounded(usable, self.limits):
                if len((ready := self._typed(piece, take)).rows):
                    table = ready.table.rename_columns(list(self.names))
                    yield table.append_column(ROW, pa.array(ready.rows)) if numbered else table

    @property
    def _base(self) -> int:
        return max(self.start, self.unit.first)

    def _report(self, report: Report) -> Report:
        def within(bad: BadRow) -> None:
            if self.start <= bad.row and (self.stop is None or bad.row < self.stop):
                report(bad)

        return within

    def _cut(self, chunk: Chunk) -> Chunk:
        start = int(np.searchsorted(chunk.rows, self.start))
        stop = len(chunk.rows) if self.stop is None else int(np.searchsorted(chunk.rows, self.stop))
        return chunk if stop - start == len(chunk.rows) else chunk.slice(start, stop)

    def _checked(self, chunk: Chunk, report: Report) -> Chunk:
        """Drops rows with non-UTF-8 texts or oversized cells, before anything is copied."""
        chunk = Chunk(chunk.table.select(self.schema.names), chunk.rows)
        keep = np.ones(len(chunk.rows), dtype=bool)
        for column in self.schema.names:
            array = flat(chunk.table[column])
            sizes = cell_sizes(array)
            for place in np.flatnonzero((sizes > self.limits.cell) & keep):
                report(self._too_large(chunk, int(place), column, int(sizes[place])))
                keep[place] = False
            for place in np.flatnonzero(not_utf8(array) & keep):
                report(self._not_text(chunk, int(place), column, array))
                keep[place] = False
        return chunk.take(keep)

    def _typed(self, chunk: Chunk, report: Report) -> Chunk:
        keep = np.ones(len(chunk.rows), dtype=bool)
        arrays: list[pa.Array] = []
        for field in self.schema:
            array = flat(chunk.table[field.name])
            made, odd = cast(array, field.type)
            arrays.append(made)
            for place in (place for place in odd if keep[place]):
                report(self._wrong_type(chunk, place, field, array[place].as_py()))
                keep[place] = False
        return Chunk(pa.Table.from_arrays(arrays, schema=self.schema), chunk.rows).take(keep)

    def _too_large(self, chunk: Chunk, place: int, column: str, size: int) -> BadRow:
        reason = f"a value of {size:,} bytes; at most {self.limits.cell:,} are read (limits.cell)"
        return BadRow(self.name, int(chunk.rows[place]), reason, column)

    def _not_text(self, chunk: Chunk, place: int, column: str, array: pa.Array) -> BadRow:
        value = _bytes_of(array, place)
        reason = f"expected a text in UTF-8, found the bytes {snippet(repr(value))}"
        return BadRow(self.name, int(chunk.rows[place]), reason, column, raw=snippet(value))

    def _wrong_type(self, chunk: Chunk, place: int, field: pa.Field, value: object) -> BadRow:
        reason = f"expected {field.type}, found {shown(value)}"
        return BadRow(self.name, int(chunk.rows[place]), reason, field.name, raw=snippet(repr(value)))


def _bytes_of(array: pa.Array, place: int) -> bytes:
    if isinstance(array, pa.DictionaryArray):
        array, place = array.dictionary, array.indices[place].as_py()
    value: bytes = array[place].cast(pa.large_binary()).as_py()
    return value
