"""A journal in an object store, which cannot append: objects that each hold some of its lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.jsonl")


@dataclass(frozen=True, order=True)
class Piece:
    """An object with some lines of a journal.

    Args:
        era: Incremented by each driver that continues the search. A driver's first piece begins with the
            first line, so that whatever an earlier driver may still write is ignored.
        first: Index of its first line, from 0.
        end: Index of the line after its last one.
    """

    era: int
    first: int
    end: int

    @property
    def name(self) -> str:
        """The object's name."""
        return f"{self.era:04}-{self.first:09}-{self.end:09}.jsonl"

    @classmethod
    def named(cls, name: str) -> Piece | None:
        """The piece whose object has this name; None if it is no piece's."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(*map(int, found.groups()))


def chain(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces that together are the journal, in order: those of the newest era that has a beginning.

    Where pieces overlap because a merge was interrupted, the longest counts.

    Args:
        pieces: All pieces there are.
    """
    longest: dict[tuple[int, int], Piece] = {}
    for piece in sorted(pieces):
        longest[piece.era, piece.first] = piece
    era = max((era for era, first in longest if first == 0), default=0)
    found: list[Piece] = []
    while (piece_or_none := longest.get((era, found[-1].end if found else 0))) is not None:
        found.append(piece_or_none)
    return found


class Pieces:
    """The pieces that a driver has written, and which of them to merge.

    As soon as there are ``width`` pieces of one level, they become one of the next: there are never many, and
    each line is written again only a few times.

    Args:
        era: The driver's era.
        width: How many pieces of a level become one.
    """

    def __init__(self, era: int, width: int = 32) -> None:
        self.era, self._width = era, width
        self._written: list[tuple[int, Piece]] = []  # the level of each

    @property
    def end(self) -> int:
        """How many lines they hold."""
        return self._written[-1][1].end if self._written else 0

    def next(self, lines: int) -> Piece:
        """The piece for the lines that follow.

        Args:
            lines: How many.
        """
        return Piece(self.era, self.end, self.end + lines)

    def add(self, piece: Piece) -> None:
        """Records that :meth:`next` is written."""
        self._written.append((0, piece))

    def due(self) -> list[Piece]:
        """The pieces to merge now; empty for none."""
        last = self._written[-self._width :]
        if len(last) < self._width or len({level for level, _ in last}) > 1:
            return []
        return [piece for _, piece in last]

    def merged(self) -> Piece:
        """The piece that replaces those that are :meth:`due`."""
        due = self.due()
        return Piece(self.era, due[0].first, due[-1].end)

    def replace(self, merged: Piece) -> None:
        """Records that :meth:`merged` is written in place of those that were :meth:`due`."""
        level = self._written[-1][0] + 1
        self._written[-self._width :] = [(level, merged)]
