"""Lines of a text file, each of bounded length, and what text formats share."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import NamedTuple

from ray_st.data.sources.errors import SourceError

_BUFFER = 1 << 20
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """A line of a text file.

    Args:
        number: 1-based line number.
        data: Its bytes including the line end; only the beginning if the line is too long.
        whole: Whether the line is complete.
    """

    number: int
    data: bytes
    whole: bool


def read_lines(stream: io.RawIOBase, limit: int, name: str) -> Iterator[Line]:
    """The lines of a byte stream, without a byte-order mark; never holds more than one line.

    Args:
        stream: A file opened for reading bytes.
        limit: Maximum bytes to keep of a line.
        name: The file, for error messages.

    Raises:
        SourceError: If the file is UTF-16.
    """
    buffered = io.BufferedReader(stream, _BUFFER)
    number = 0
    while data := buffered.readline(limit):
        number += 1
        if number == 1:
            if data.startswith(_WIDE):
                raise SourceError(f"{name}: is in UTF-16; save it as UTF-8.")
            data = data.removeprefix(codecs.BOM_UTF8)
        whole = len(data) < limit or data.endswith(b"\n")
        if not whole:
            _skip_line(buffered)
        yield Line(number, data, whole)


def _skip_line(stream: io.BufferedIOBase) -> None:
    while (rest := stream.readline(_BUFFER)) and not rest.endswith(b"\n"):
        pass


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
