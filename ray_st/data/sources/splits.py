"""Slices of splits in the syntax of ``datasets.load_dataset``: ``train[:80%]+test[-100:]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ray_st.data.sources.errors import SourceError

_PIECE = re.compile(r"\s*(?P<name>[\w.-]+)\s*(?:\[(?P<start>[^:\]]*):(?P<stop>[^:\]]*)\])?\s*")
_BOUND = re.compile(r"\s*(?P<number>-?[0-9]+)\s*(?P<percent>%)?\s*")


@dataclass(frozen=True)
class Bound:
    """A position among rows: a number of rows, or a percentage of all rows; negative counts from the end."""

    number: int
    percent: bool = False

    def __str__(self) -> str:
        return f"{self.number}{'%' * self.percent}"

    def row(self, rows: int) -> int:
        """The position among `rows` rows: percentages round to the nearest row, half to even."""
        found = round(self.number * rows / 100) if self.percent else self.number
        return min(max(found + rows if found < 0 else found, 0), rows)


@dataclass(frozen=True)
class Bounds:
    """A range between two positions; None is the start, or the end."""

    start: Bound | None = None
    stop: Bound | None = None

    def rows(self, rows: int) -> tuple[int, int]:
        """The first row and the one after the last, out of `rows` rows."""
        start = 0 if self.start is None else self.start.row(rows)
        stop = rows if self.stop is None else self.stop.row(rows)
        return start, max(start, stop)

    def __str__(self) -> str:
        return f"[{self.start or ''}:{self.stop or ''}]"

    @property
    def relative(self) -> bool:
        """Whether resolving the positions requires the number of rows."""
        return any(
            bound is not None and (bound.percent or bound.number < 0) for bound in (self.start, self.stop)
        )


@dataclass(frozen=True)
class Piece:
    """A split or a slice of it."""

    split: str
    bounds: Bounds = Bounds()


def parse_split(text: str) -> list[Piece]:
    """Parses a split: names with optional slices, joined by ``+``.

    Args:
        text: For example ``train``, ``train[:80%]`` or ``train[100:200]+validation``.

    Raises:
        SourceError: If the syntax is invalid, or a percentage is over 100.
    """
    return [_piece(part, text) for part in text.split("+")]


def _piece(part: str, text: str) -> Piece:
    match = _PIECE.fullmatch(part)
    if match is None:
        raise SourceError(
            f"split: expected a split such as train, train[:80%] or train[10:20]+test, found {text!r}."
        )
    if match["start"] is None:
        return Piece(match["name"])
    return Piece(match["name"], Bounds(_bound(match["start"], text), _bound(match["stop"], text)))


def _bound(written: str, text: str) -> Bound | None:
    if not written.strip():
        return None
    match = _BOUND.fullmatch(written)
    if match is None:
        raise SourceError(
            f"split: {text!r}: expected a whole number, or one with %, found {written.strip()!r}."
        )
    bound = Bound(int(match["number"]), match["percent"] is not None)
    if bound.percent and abs(bound.number) > 100:
        raise SourceError(f"split: {text!r}: {written.strip()} is beyond 100%.")
    return bound
