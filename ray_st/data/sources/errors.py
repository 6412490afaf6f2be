"""Errors of a source or one of its rows, with enough context to locate and fix them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

_SHOWN = 80


class SourceError(ValueError):
    """A source that cannot be read, or that contains unusable rows."""


@dataclass(frozen=True)
class BadRow:
    """An unusable row.

    Args:
        file: The file, table or query that contains it.
        row: Its 0-based row number there; unusable rows count.
        reason: What was expected and what was found.
        column: The faulty column, if it is a single one.
        line: For text files, the 1-based line on which it starts; a header counts as a line.
        raw: The beginning of what was found.
    """

    file: str
    row: int
    reason: str
    column: str | None = None
    line: int | None = None
    raw: str = ""

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"line {self.line}"
        column = "" if self.column is None else f", column {self.column!r}"
        return f"{self.file}, {place}{column}: {self.reason}"


Report = Callable[[BadRow], None]
"""Handles unusable rows: raises an error or sets them aside."""


def raise_bad_row(bad: BadRow) -> None:
    """Stops reading at the first unusable row.

    Raises:
        SourceError: Always.
    """
    raise SourceError(f'{bad}. Correct the row, or put such rows aside with bad_rows="skip".')


def shown(value: object) -> str:
    """A value and its type, truncated to a readable length."""
    if value is None:
        return "nothing"
    return f"{snippet(repr(value))} ({type(value).__name__})"


def snippet(text: str | bytes) -> str:
    """The beginning of a text, as one printable line."""
    start = text[: _SHOWN + 1]
    plain = start.decode("utf-8", "backslashreplace") if isinstance(start, bytes) else start
    plain = " ".join(plain.encode("utf-8", "backslashreplace").decode().split())
    return plain if len(text) <= _SHOWN else plain[:_SHOWN] + "…"


@contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Converts exceptions about a file into a :class:`SourceError` that names it.

    Args:
        name: The file.
        kind: The format that it is read as.
    """
    try:
        yield
    except PermissionError as error:
        raise SourceError(
            f"{name}: permission denied; allow this user, or the credentials in use, to read it."
        ) from error
    except FileNotFoundError as error:
        raise SourceError(
            f"{name}: no such file; paths without a scheme start at the working directory."
        ) from error
    except (pa.ArrowException, OSError, EOFError) as error:
        raise SourceError(
            f"{name}: cannot be read as {kind}: {message_of(error)} Is it of another format, or damaged?"
        ) from error


def message_of(error: BaseException) -> str:
    """The message of an exception, as one line that ends with a full stop."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return text if text.endswith((".", "!", "?")) else text + "."
