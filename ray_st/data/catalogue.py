"""The catalogue of a dataset: where the rows of each segment are, from footers and counts alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ray_st.data.located import read_located
from ray_st.data.sources import Part, SourceError


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a part.

    Args:
        part: The part, without the other rows as far as its format allows.
        rows: Number of rows.
    """

    part: Part
    rows: int

    def read(self) -> Iterator[pa.Table]:
        """The rows in order, as :func:`ray_st.data.located.read_located` returns them.

        Raises:
            SourceError: If they cannot be read, or their number or their file is not as it was counted.
        """
        found = 0
        try:
            for table in read_located(self.part):
                found += len(table)
                yield table
        finally:
            # Afterwards: a file that is written anew while it is read often cannot be read, which is not why.
            self.part.unit.check_unchanged()
        if found != self.rows:
            raise SourceError(
                f"{self.part.name}: {found:,} rows were read where {self.rows:,} were counted: is the file "
                "damaged, or was it written while the run began?"
            )


class Catalogue:
    """Where the rows of each segment are; nothing is read.

    Args:
        parts: The parts of a source, in order; all must be :attr:`~ray_st.data.sources.Part.seekable`.
        segment_rows: Number of rows of each segment but the last.
    """

    def __init__(self, parts: Sequence[Part], segment_rows: int) -> None:
        self._parts, self._size = tuple(parts), segment_rows
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.count())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    @property
    def segment_rows(self) -> list[int]:
        """Number of rows of each segment."""
        return [min(self._size, self.rows - start) for start in range(0, self.rows, self._size)]

    def start(self, segment: int) -> int:
        """Number of the first row of a segment."""
        return segment * self._size

    def spans(self, segment: int) -> list[Span]:
        """Where the rows of a segment are."""
        row, stop = self.start(segment), min(self.start(segment + 1), self.rows)
        number = bisect_right(self._starts, row) - 1
        found = []
        while row < stop:
            first, end = self._starts[number], min(self._starts[number + 1], stop)
            if row < end:
                part = self._parts[number].within(row - first, end - first)
                found.append(Span(part, end - row))
            row, number = end, number + 1
        return found
