"""Figures from arrays: correlations, and how well ranked lists find what is relevant."""

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
    # A constant column is exactly zero after this, whatever the rounding of its mean.
    return values - values.mean() if np.ptp(values) else np.zeros_like(values)


def accuracy_at(hits: NDArray[np.bool_], k: int) -> float:
    """Share of queries with something relevant among the first k.

    Args:
        hits: Whether the result at each rank is relevant (queries, ranks), best first.
        k: Ranks that count.
    """
    return float(hits[:, :k].any(axis=1).mean())


def precision_at(hits: NDArray[np.bool_], k: int) -> float:
    """Mean share of the first k that is relevant; arguments as in :func:`accuracy_at`."""
    return float((hits[:, :k].sum(axis=1) / k).mean())


def recall_at(hits: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> float:
    """Mean share of what is relevant that is among the first k.

    Args:
        hits: Whether the result at each rank is relevant (queries, ranks), best first.
        relevant: Number of relevant documents of each query, at least 1 (queries,).
        k: Ranks that count.
    """
    return float((hits[:, :k].sum(axis=1) / relevant).mean())


def mrr_at(hits: NDArray[np.bool_], k: int) -> float:
    """Mean of one over the rank of the first relevant result, 0 beyond k; arguments as in :func:`accuracy_at`."""
    first = hits[:, :k].argmax(axis=1)
    return float((hits[:, :k].any(axis=1) / (first + 1)).mean())


def ndcg_at(hits: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> float:
    """Mean discounted cumulative gain of the first k, over the best possible; arguments as in :func:`recall_at`.

    Gains are 0 or 1, the discount at rank r is 1 / log2(r + 1) (Järvelin and Kekäläinen 2002).
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gained = hits[:, :k] @ discounts[: hits.shape[1]]
    best = np.cumsum(discounts)[np.minimum(relevant, k) - 1]
    return float((gained / best).mean())


def map_at(hits: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> float:
    """Mean over queries of the average precision at the relevant ranks; arguments as in :func:`recall_at`.

    The average is over the relevant documents, or over k if there are more of them.
    """
    found = hits[:, :k]
    precisions = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    return float(((found * precisions).sum(axis=1) / np.minimum(relevant, k)).mean())
