"""Checks all rows of a dataset: by tasks of a cluster, or in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from ray_st.data import segments
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.row_check import CheckedRows, check_rows_of
from ray_st.data.sources import Part
from ray_st.runtime.cluster.connection import resources
from ray_st.runtime.cluster.handles import result_of
from ray_st.runtime.data.counting import count_rows
from ray_st.runtime.data.ingest import beside_workers, on_this_machine

PIECE_ROWS = 16 * segments.ROWS
"""Rows of a text file that a task checks."""


def check_parts(
    parts: Sequence[Part], columns: ColumnSpec, label: str, cluster: bool
) -> Iterator[CheckedRows]:
    """What is found in the rows of a dataset, in order, in pieces of bounded size.

    Args:
        parts: The dataset.
        columns: Its columns.
        label: Its name in messages.
        cluster: Whether there is a cluster to use; rows that this process holds are checked here.

    Raises:
        SourceError: If a file cannot be read.
    """
    if cluster and not any(part.held for part in parts):
        return _by_tasks(parts, columns, label)
    return (found for part in parts for found in check_rows_of(part, columns))


def pieces_of(part: Part, rows: int) -> Iterator[Part]:
    """A part in pieces of so many rows; its rows must be counted."""
    for start in range(0, part.count(), rows):
        yield part.within(start, start + rows)


def _by_tasks(parts: Sequence[Part], columns: ColumnSpec, label: str) -> Iterator[CheckedRows]:
    # Other formats come in parts that can be read apart from each other.
    divided = [
        piece
        for part, counted in zip(parts, count_rows(parts, label), strict=True)
        for piece in (pieces_of(counted, PIECE_ROWS) if part.uncounted and counted.seekable else [part])
    ]
    options = on_this_machine() if any(part.local for part in parts) else beside_workers()
    check: Any = ray.remote(check_rows_of).options(num_returns="streaming", **options)
    started = 2 * int(resources(here=False).get("CPU", 0)) + 2
    running = deque(check.remote(piece, columns) for piece in divided[:started])
    waiting = iter(divided[started:])
    while running:
        for reference in running.popleft():
            yield result_of(reference)
        running.extend(check.remote(piece, columns) for piece in [next(waiting, None)] if piece is not None)
