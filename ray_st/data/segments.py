"""Segments: consecutive rows of a dataset that are encoded together, and drawn together into a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ray_st.data.plan import Indices

ROWS = 8192
"""Rows of each segment but the last. Fixed, so that the order of samples depends neither on how readers split
their output nor on the cluster."""

FIRST_WINDOW = 2
"""Segments of a run's first window, if windows are planned one by one: the first step waits for them only."""


def in_window(rows: int, window_rows: int | None) -> int | None:
    """The number of segments in a window; None if one holds the whole dataset.

    Args:
        rows: Rows of the dataset.
        window_rows: Rows that are shuffled at once; None for all.
    """
    if window_rows is None or rows <= max(window_rows, ROWS):
        return None
    return max(window_rows // ROWS, 1)


def window_sizes(segments: int, window_segments: int | None, growing: bool) -> list[int]:
    """How many segments each window of an epoch has.

    Args:
        segments: Segments of the dataset.
        window_segments: The most that a window has; None for all of them.
        growing: Whether the first windows are small, so that training can begin before the rest is encoded:
            :data:`FIRST_WINDOW` segments, then twice as many each time. What is left after them, or all if
            they don't grow, is split evenly.
    """
    most = max(segments if window_segments is None else window_segments, 1)
    sizes, rest, size = [], segments, FIRST_WINDOW
    while growing and size < most and rest > size + size // 2:  # no last window that is far too small
        sizes.append(size)
        rest -= size
        size *= 2
    windows = -(-rest // most)
    return sizes + [rest // windows + (window < rest % windows) for window in range(windows)]


def rows_of(rows: int) -> list[int]:
    """The number of rows of each segment.

    Args:
        rows: Rows of the dataset.
    """
    return np.diff(_edges(rows)).tolist()


def usable_rows(usable: Indices, rows: int) -> list[int]:
    """The number of usable rows in each segment.

    Args:
        usable: The usable ones among a dataset's rows, in order (n,).
        rows: Number of all rows.
    """
    return np.diff(np.searchsorted(usable, _edges(rows))).tolist()


def most_blocks(block_rows: Sequence[int]) -> int:
    """The largest number of blocks that hold rows of one segment; Ray splits blocks with many bytes.

    Args:
        block_rows: Rows in each of a dataset's blocks.
    """
    edges, ends = _edges(sum(block_rows)), np.cumsum(block_rows)
    first = np.searchsorted(ends, edges[:-1], side="right")
    last = np.searchsorted(ends, edges[1:] - 1, side="right")
    return int((last - first).max(initial=0)) + 1


def _edges(rows: int) -> Indices:
    return np.append(np.arange(0, rows, ROWS), rows)
