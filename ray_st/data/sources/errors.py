"""What is wrong with a source, or with one of its rows, said so that it can be found and put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

_SHOWN = 80


class SourceError(ValueError):
    """A source that cannot be read, or holds rows that cannot be used."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Args:
        file: The file, table or query that it is in.
        row: Its number among the rows there, from 0; rows that cannot be used count.
        reason: What was expected and what was found.
        column: The column at fault, if it is one.
        line: For text files, the line on which it starts, from 1; a header is a line.
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
"""Takes rows that cannot be used: raises, or puts them aside."""


def refuse(bad: BadRow) -> None:
    """Ends reading at the first row that cannot be used.

    Raises:
        SourceError: Always.
    """
    raise SourceError(f'{bad}. Correct the row, or put such rows aside with bad_rows="skip".')


def shown(value: object) -> str:
    """A value and its type, cut to a readable length."""
    if value is None:
        return "nothing"
    return f"{snippet(repr(value))} ({type(value).__name__})"


def snippet(text: str | bytes) -> str:
    """The beginning of a text, in one printable line."""
    start = text[: _SHOWN + 1]
    plain = start.decode("utf-8", "backslashreplace") if isinstance(start, bytes) else start
    plain = " ".join(plain.encode("utf-8", "backslashreplace").decode().split())
    return plain if len(text) <= _SHOWN else plain[:_SHOWN] + "…"


@contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Turns what goes wrong with a file into a :class:`SourceError` that names it.

    Args:
        name: The file.
        kind: What it is read as.
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
            f"{name}: cannot be read as {kind}: {said(error)} Is it of another format, or damaged?"
        ) from error


def said(error: BaseException) -> str:
    """What an exception says, in one line that ends with a full stop."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return text if text.endswith((".", "!", "?")) else text + "."
