"""Where the rows of a text file start, so that it can be read from any of them on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_st.data.sources.lines import START, Line, Mark

MARK_ROWS = 1024
"""Rows from one mark to the next: 16 bytes of memory, and at most so many rows are read in vain."""


@dataclass(frozen=True, eq=False)
class RowIndex:
    """The number of a file's rows, and marks from which they can be read on.

    Args:
        rows: Number of all rows.
        places: (n, 2) line and offset of every :data:`MARK_ROWS`-th row.
        first: Row of the first mark.
    """

    rows: int
    places: npt.NDArray[np.int64]
    first: int = 0

    @classmethod
    def of(cls, starts: Iterable[Line]) -> RowIndex:
        """The index of a file.

        Args:
            starts: The line on which each row starts.
        """
        rows, places = 0, []
        for row, line in enumerate(starts):
            if not row % MARK_ROWS:
                places.append((line.number, line.offset))
            rows = row + 1
        return cls(rows, np.array(places, dtype=np.int64).reshape(-1, 2))

    @property
    def begin(self) -> Mark:
        """The first mark."""
        if not len(self.places):
            return START
        line, offset = self.places[0].tolist()
        return Mark(self.first, line, offset)

    def around(self, row: int) -> RowIndex:
        """The index with a single mark: the last one that is not behind a row."""
        number = max(min((row - self.first) // MARK_ROWS, len(self.places) - 1), 0)
        return RowIndex(self.rows, self.places[number : number + 1], self.first + number * MARK_ROWS)
