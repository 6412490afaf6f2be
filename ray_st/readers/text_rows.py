"""Rows of text files, plain or compressed; errors name file and line."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

_GZIP = b"\x1f\x8b"
_LONGEST_FIELD = 1 << 30  # the csv module's own bound is 128 KiB, for the whole process

T = TypeVar("T")


class ReaderError(ValueError):
    """A file that cannot be read, or a row that cannot be used."""


class Row(NamedTuple):
    """A row of a file.

    Args:
        place: File and line, for errors.
        fields: Its fields.
    """

    place: str
    fields: list[str]

    def field(self, column: int) -> str:
        """The field in a column, counted from 0, without surrounding white space.

        Raises:
            ReaderError: If the row has no such column.
        """
        if not -len(self.fields) <= column < len(self.fields):
            raise ReaderError(f"{self.place}: expected a column {column}, found {len(self.fields)} columns.")
        return self.fields[column].strip()


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file; gzip compression is detected whatever the file's name.

    Raises:
        ReaderError: If there is no such file, or it is damaged or has another encoding.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        opener = gzip.open if packed else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except FileNotFoundError as error:
        raise ReaderError(f"{path}: no such file.") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReaderError(f"{path}: cannot be read as UTF-8 text: {error}.") from error


def read_lines(path: Path) -> Iterator[Row]:
    """Each line of a file as a row of one field, blank lines included."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            yield Row(f"{path}, line {number}", [line.rstrip("\r\n")])


def read_rows(path: Path, delimiter: str, quoting: int) -> Iterator[Row]:
    """The rows of delimited text; blank lines are skipped.

    Args:
        path: The file.
        delimiter: The separator of fields.
        quoting: One of the ``QUOTE_…`` constants of :mod:`csv`.

    Raises:
        ReaderError: If the file cannot be read as such.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
        try:
            for fields in reader:
                if fields:
                    yield Row(f"{path}, line {reader.line_num}", fields)
        except csv.Error as error:
            raise ReaderError(f"{path}, line {reader.line_num}: {error}.") from error


def read_together(paths: Sequence[Path]) -> Iterator[list[Row]]:
    """Corresponding lines of several files.

    Raises:
        ReaderError: If a file ends before the others.
    """
    for number, rows in enumerate(zip_longest(*map(read_lines, paths)), 1):
        if None in rows:
            raise ReaderError(
                f"{paths[rows.index(None)]}: ends before line {number}, which {paths} have; all need it."
            )
        yield list(rows)


def first(values: Iterator[T], max_examples: int) -> list[T]:
    """The first ``max_examples`` values; all for 0.

    Raises:
        ValueError: If ``max_examples`` is negative.
    """
    if max_examples < 0:
        raise ValueError(f"max_examples must be 0 (all) or more; got {max_examples}.")
    return list(islice(values, max_examples or None))
