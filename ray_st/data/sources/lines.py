"""Lines of a text file, each of bounded length, and what text formats share."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import NamedTuple

from ray_st.data.sources.errors import SourceError

_BUFFER = 1 << 20
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Mark(NamedTuple):
    """A place of a text file from which its records can be read on.

    Args:
        row: The 0-based number of the record that starts there.
        line: The 1-based line on which it starts.
        offset: The byte at which that line starts.
    """

    row: int
    line: int
    offset: int


START = Mark(0, 1, 0)
"""The start of a file."""


class Line(NamedTuple):
    """A line of a text file.

    Args:
        number: 1-based line number.
        offset: The byte at which it starts.
        data: Its bytes including the line end; only the beginning if the line is too long.
        whole: Whether the line is complete.
    """

    number: int
    offset: int
    data: bytes
    whole: bool


def read_lines(stream: io.RawIOBase, limit: int, name: str, begin: Mark = START) -> Iterator[Line]:
    """The lines of a byte stream, without a byte-order mark; never holds more than one line.

    Args:
        stream: A file opened for reading bytes, at `begin`.
        limit: Maximum bytes to keep of a line.
        name: The file, for error messages.
        begin: Where to begin.

    Raises:
        SourceError: If the file is UTF-16.
    """
    buffered = io.BufferedReader(stream, _BUFFER)
    number, offset = begin.line, begin.offset
    while data := buffered.readline(limit):
        size = len(data)
        if number == 1:
            if data.startswith(_WIDE):
                raise SourceError(f"{name}: is in UTF-16; save it as UTF-8.")
            data = data.removeprefix(codecs.BOM_UTF8)
        whole = len(data) < limit or data.endswith(b"\n")
        if not whole:
            size += _skip_line(buffered)
        yield Line(number, offset, data, whole)
        number += 1
        offset += size


def _skip_line(stream: io.BufferedIOBase) -> int:
    """Skips the rest of a line; returns its size."""
    skipped = 0
    while rest := stream.readline(_BUFFER):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def too_long(limit: int) -> str:
    """The fault of a line that was not read completely."""
    return f"the line is longer than {limit:,} bytes"


def undecodable(data: bytes) -> str | None:
    """The fault of bytes that are not UTF-8; None if they are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        found = data[error.start : error.start + 4]
        return f"not UTF-8: byte {error.start + 1} of the line starts {found!r}; save the file as UTF-8"
    return None
