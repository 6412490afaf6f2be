"""CSV and TSV: records according to RFC 4180, with every line accounted for."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ray_st.data.sources.errors import SourceError
from ray_st.data.sources.lines import START, Line, Mark, read_lines, too_long, undecodable
from ray_st.data.sources.row_records import Record, infer, sample
from ray_st.data.sources.source import Limits
from ray_st.data.sources.source_kinds import first_duplicate, type_of_words


@dataclass(frozen=True)
class Csv:
    """How to read delimited text. Only an empty field is a missing value: ``NA`` and ``null`` are text.

    Args:
        delimiter: The field separator.
        quoted: Whether quotation marks enclose fields.
        names: Column names, if there is no header row.
    """

    delimiter: str = ","
    quoted: bool = True
    names: tuple[str, ...] | None = None

    def columns(self, stream: pa.NativeFile, limits: Limits, name: str) -> dict[str, pa.DataType]:
        """Header and column types of a file."""
        source = _LineSource(read_lines(stream, limits.line, name), limits.line)
        header = self._header(source, name)
        return infer(sample(self._rows(source, header)), type_of_words, header)

    def records(
        self, stream: pa.NativeFile, limits: Limits, name: str, begin: Mark = START
    ) -> Iterator[Record]:
        """The rows after the header; blank lines are skipped."""
        source = _LineSource(read_lines(stream, limits.line, name, begin), limits.line, begin.line)
        yield from self._rows(source, self._header(source, name), begin.row)

    def starts(self, stream: pa.NativeFile, limits: Limits, name: str) -> Iterator[Line]:
        """The line on which each row starts; only rows with quotation marks are parsed."""
        source = _LineSource(read_lines(stream, limits.line, name), limits.line)
        self._header(source, name)
        parsed = self._parsed(source)
        for line in source.lines:
            if self.quoted and b'"' in line.data:
                source.put_back(line)
                next(parsed)
            elif line.whole and not line.data.strip(b"\r\n"):
                continue
            yield line

    def within(self, stream: pa.NativeFile, limits: Limits, name: str) -> Csv:
        """How to read from any row on: there is no header."""
        header = self._header(_LineSource(read_lines(stream, limits.line, name), limits.line), name)
        return replace(self, names=tuple(header))

    def _header(self, source: _LineSource, name: str) -> Sequence[str]:
        if self.names is not None:
            return self.names
        fields, fault = next(self._parsed(source), (None, None))
        if fields is None or fault is not None:
            raise SourceError(f"{name}, line 1: no header row: {fault or 'the file has no lines'}.")
        duplicate = first_duplicate(fields)
        if duplicate is not None or "" in fields:
            what = f"has {duplicate!r} twice" if duplicate else "has a column without a name"
            raise SourceError(f"{name}, line 1: the header {what}; if there is no header, give `names`.")
        return fields

    def _rows(self, source: _LineSource, header: Sequence[str], first: int = 0) -> Iterator[Record]:
        width = len(header)
        for row, (fields, fault) in enumerate(self._parsed(source), first):
            if fault is None and len(fields) != width:
                fault = f"expected {width} fields, found {len(fields)}"
            if fault is not None:
                yield Record(row, source.line, {}, source.size, fault, source.raw)
            else:
                values = [field or None for field in fields]
                yield Record(row, source.line, dict(zip(header, values, strict=True)), source.size)

    def _parsed(self, source: _LineSource) -> Iterator[tuple[list[str], str | None]]:
        """Fields of each record, and what is wrong with it.

        After a fault, reading continues on the next line.
        """
        reader = self._reader(source)
        while True:
            source.begin()
            try:
                fields = next(reader)
            except StopIteration:
                if source.fault is None:
                    return
                fields, reader = [], self._reader(source)
            except csv.Error as error:
                source.fault = source.fault or self._meant(str(error), source)
                fields, reader = [], self._reader(source)
            if fields or source.fault is not None:
                yield fields, source.fault

    def _reader(self, source: _LineSource) -> Any:
        # The csv module limits a field to 128 KiB, for the whole process; our limits are on lines and cells.
        csv.field_size_limit(max(csv.field_size_limit(), source.limit))
        return csv.reader(
            source,
            delimiter=self.delimiter,
            strict=True,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        )

    def _meant(self, said: str, source: _LineSource) -> str:
        if "end of data" in said:
            return f"a quotation mark is never closed (read up to line {source.last})"
        return f"{said}; if quotation marks are part of the text, set quoted: false"


class _LineSource:
    """Supplies ``csv.reader`` with lines and keeps track of the current record."""

    def __init__(self, lines: Iterator[Line], limit: int, first: int = 1) -> None:
        self.limit = limit
        self.lines = lines
        self._again: Line | None = None
        self.last = first - 1
        self.begin()

    def begin(self) -> None:
        self.line, self.size = self.last + 1, 0
        self.fault: str | None = None
        self.raw: bytes = b""

    def put_back(self, line: Line) -> None:
        """Makes a line that was taken from :attr:`lines` the next one."""
        self._again, self.last = line, line.number - 1

    def __iter__(self) -> _LineSource:
        return self

    def __next__(self) -> str:
        if self.size > self.limit:
            self.fault = f"a record of more than {self.limit:,} bytes: is a quotation mark not closed?"
            raise StopIteration
        line = self._again or next(self.lines)
        self._again = None
        if not self.raw:
            self.raw = line.data[:200]
        self.last = line.number
        self.size += len(line.data)
        if not line.whole:
            self.fault = too_long(self.limit)
            raise StopIteration
        try:
            return line.data.decode()
        except UnicodeDecodeError:
            self.fault = self.fault or undecodable(line.data)
            return line.data.decode("utf-8", "replace")
