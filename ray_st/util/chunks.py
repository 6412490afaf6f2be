"""Cutting texts into chunks of similar length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Chunk = tuple[NDArray[np.int64], int]
"""Row numbers (k,) of a chunk, shortest row first, and the chunk's width in tokens."""


def cheapest_chunks(
    lengths: NDArray[np.int64], call_tokens: int, most_tokens: int | None = None
) -> list[Chunk]:
    """Cuts rows into chunks of similar length that minimise padded tokens plus the cost of chunks.

    Rows are sorted by length and cut only between different lengths; dynamic programming finds the cuts.

    Args:
        lengths: Number of tokens in each row, at least 1 (n,).
        call_tokens: Cost of each additional chunk, in tokens.
        most_tokens: Most padded tokens in all; the cost of a chunk is halved until they are not exceeded.
    """
    chunks = _cheapest(lengths, call_tokens)
    while most_tokens is not None and call_tokens and padded_tokens(chunks) > most_tokens:
        call_tokens //= 2
        chunks = _cheapest(lengths, call_tokens)
    return chunks


def padded_tokens(chunks: list[Chunk]) -> int:
    """The tokens of all chunks, with padding."""
    return sum(len(rows) * width for rows, width in chunks)


def _cheapest(lengths: NDArray[np.int64], call_tokens: int) -> list[Chunk]:
    order = np.argsort(lengths, kind="stable")
    widths, counts = np.unique(lengths, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    return [
        (order[ends[start] : ends[stop]], int(widths[stop - 1]))
        for start, stop in _cheapest_cuts(widths, ends, call_tokens)
    ]


def _cheapest_cuts(
    widths: NDArray[np.int64], ends: NDArray[np.int64], call_tokens: int
) -> list[tuple[int, int]]:
    cost = np.zeros(len(ends), dtype=np.int64)
    begin = np.zeros(len(ends), dtype=np.int64)
    for stop in range(1, len(ends)):
        options = cost[:stop] + (ends[stop] - ends[:stop]) * widths[stop - 1] + call_tokens
        begin[stop] = options.argmin()
        cost[stop] = options[begin[stop]]
    cuts, stop = [], len(widths)
    while stop:
        cuts.append((int(begin[stop]), stop))
        stop = int(begin[stop])
    return cuts[::-1]
