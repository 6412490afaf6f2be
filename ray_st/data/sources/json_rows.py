"""JSON: one object per line, or a single list of objects; and plain text, one row per line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_st.data.sources.errors import SourceError, shown
from ray_st.data.sources.lines import START, Line, Mark, read_lines, too_long, undecodable
from ray_st.data.sources.row_records import Record, infer, sample_of_some, value_size
from ray_st.data.sources.source import Limits
from ray_st.data.sources.source_kinds import type_of_values


@dataclass(frozen=True)
class Json:
    """JSON lines.

    A file that starts with ``[`` is a single list of objects and is held in memory as a whole while it is
    read.

    Args:
        lines: Whether it is known that the file is no such list.
    """

    lines: bool = False

    def columns(self, stream: pa.NativeFile, limits: Limits, name: str) -> dict[str, pa.DataType]:
        """Keys in order of first appearance, and their types."""
        first = sample_of_some(self.records(stream, limits, name), name)
        return infer(first, lambda _, values: type_of_values(values))

    def records(
        self, stream: pa.NativeFile, limits: Limits, name: str, begin: Mark = START
    ) -> Iterator[Record]:
        """The objects; blank lines are skipped, and an absent key is a missing value."""
        filled = self.starts(stream, limits, name, begin)
        first = next(filled, None)
        if first is None:
            return
        rest = itertools.chain([first], filled)
        if not self.lines and _opens_list(first):
            yield from _listed(rest, name)
        else:
            for row, line in enumerate(rest, begin.row):
                yield _record(row, line, limits.line)

    def starts(self, stream: pa.NativeFile, limits: Limits, name: str, begin: Mark = START) -> Iterator[Line]:
        """The lines that are not blank."""
        return (line for line in read_lines(stream, limits.line, name, begin) if not line.data.isspace())

    def within(self, stream: pa.NativeFile, limits: Limits, name: str) -> Json | None:
        """How to read from any record on; None for a list."""
        first = next(self.starts(stream, limits, name), None)
        return None if first is not None and _opens_list(first) else Json(lines=True)


@dataclass(frozen=True)
class Text:
    """Plain text: a single column ``text``, one row per line, without line ends."""

    def columns(self, stream: pa.NativeFile, limits: Limits, name: str) -> dict[str, pa.DataType]:
        """The single column."""
        return {"text": pa.string()}

    def records(
        self, stream: pa.NativeFile, limits: Limits, name: str, begin: Mark = START
    ) -> Iterator[Record]:
        """The lines, including empty ones."""
        for row, line in enumerate(read_lines(stream, limits.line, name, begin), begin.row):
            fault = undecodable(line.data) if line.whole else too_long(limits.line)
            text = None if fault else line.data.decode().rstrip("\r\n")
            yield Record(row, line.number, {"text": text}, len(line.data), fault, line.data[:200])

    def starts(self, stream: pa.NativeFile, limits: Limits, name: str) -> Iterator[Line]:
        """The lines."""
        return read_lines(stream, limits.line, name)

    def within(self, stream: pa.NativeFile, limits: Limits, name: str) -> Text:
        """How to read from any record on."""
        return self


def _record(row: int, line: Line, limit: int) -> Record:
    fault = undecodable(line.data) if line.whole else too_long(limit)
    value: Any = {}
    if fault is None:
        try:
            value = json.loads(line.data)
        except (ValueError, RecursionError) as error:
            fault = f"not JSON: {error}"
        else:
            fault = _not_object(value)
    return Record(row, line.number, {} if fault else value, len(line.data), fault, line.data[:200])


def _opens_list(first: Line) -> bool:
    return first.data.lstrip().startswith(b"[")


def _listed(lines: Iterator[Line], name: str) -> Iterator[Record]:
    parts = list(lines)
    long = next((line for line in parts if not line.whole), None)
    if long is not None:
        raise SourceError(
            f"{name}, line {long.number}: {too_long(len(long.data))}, in a file that is one list; write one "
            f"object a line, for example with `jq -c '.[]' {name}`."
        )
    try:
        values = json.loads(b"".join(line.data for line in parts))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{name}: not a JSON list: {error}. Is it an object a line, with a list first?"
        ) from error
    del parts
    for row, value in enumerate(values):
        fault = _not_object(value)
        size = 0 if fault else sum(map(value_size, value.values()))
        yield Record(row, None, {} if fault else value, size, fault, repr(value)[:200])


def _not_object(value: object) -> str | None:
    return (
        None if isinstance(value, dict) else f"expected an object with columns as keys, found {shown(value)}"
    )
