"""Correlations of two columns of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's correlation; nan if either side is constant.

    Args:
        a: (n,).
        b: (n,).
    """
    x, y = (_centred(np.asarray(side, dtype=np.float64)) for side in (a, b))
    lengths = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if not all(lengths):
        return float("nan")
    return float(np.clip((x / lengths[0]) @ (y / lengths[1]), -1.0, 1.0))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; nan if either side is constant.

    Args:
        a: (n,).
        b: (n,).
    """
    return pearson(average_ranks(a), average_ranks(b))


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs.

    Args:
        values: (n,).

    Returns:
        (n,); all nan if any value is.
    """
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        return np.full(len(array), np.nan)
    _, group, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def _centred(values: Floats) -> Floats:
    # A constant column becomes exactly zero, however its mean is rounded.
    return values - values.mean() if np.ptp(values) else np.zeros_like(values)
