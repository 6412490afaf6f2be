"""The catalogue of a dataset: where the rows of each segment are, from footers and counts alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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


def read_together(spans: Sequence[Span]) -> list[list[pa.Table]]:
    """The rows of several spans of one part, by a single pass from the first to the last.

    Args:
        spans: The spans, in row order.

    Returns:
        For each span its rows, as :meth:`Span.read` yields them.

    Raises:
        SourceError: As for :meth:`Span.read`.
    """
    first, found = spans[0].part, [list[pa.Table]() for _ in spans]
    stop = spans[-1].part.start + spans[-1].rows
    whole = replace(first, unit=first.unit.between(first.start, stop), stop=stop)
    row = first.start
    for table in Span(whole, stop - row).read():
        for span, tables in zip(spans, found, strict=True):
            begin, end = max(span.part.start, row), min(span.part.start + span.rows, row + len(table))
            if begin < end:
                tables.append(table.slice(begin - row, end - begin))
        row += len(table)
    return found


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

    def together(self, chosen: Sequence[int], most: int) -> list[list[int]]:
        """Groups of segments to read by one pass each, since alone they would decode the same rows again.

        Args:
            chosen: The segments.
            most: Maximum number of segments in a group.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for segment in chosen:
            groups.setdefault(self._decoded_with(segment), []).append(segment)
        ordered = [sorted(group) for group in groups.values()]
        return [group[start : start + most] for group in ordered for start in range(0, len(group), most)]

    def _decoded_with(self, segment: int) -> tuple[int, ...]:
        """Equal for segments of which most rows are decoded together."""
        row = self.start(segment)
        number = bisect_right(self._starts, row) - 1
        decoded = self._parts[number].unit.decoded
        straddles = min(row + self._size, self.rows) > self._starts[number + 1]
        alone = straddles or decoded < 2 * self._size
        return (number, segment) if alone else (number, -1 - (row - self._starts[number]) // decoded)

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
