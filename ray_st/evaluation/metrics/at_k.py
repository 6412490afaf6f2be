"""Metrics of ranked lists at their first k results, and the ranks k of each metric."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


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
    """Mean of 1 / rank of the first relevant result, 0 beyond k; arguments as in :func:`accuracy_at`."""
    first = hits[:, :k].argmax(axis=1)
    return float((hits[:, :k].any(axis=1) / (first + 1)).mean())


def ndcg_at(hits: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> float:
    """Mean normalised discounted cumulative gain of the first k; arguments as in :func:`recall_at`.

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


@dataclass(frozen=True)
class Ranks:
    """The ranks k of each retrieval metric.

    Attributes:
        accuracy: For the share of queries that find anything relevant.
        precision_recall: For precision and recall.
        ndcg: For the normalised discounted cumulative gain, at least one.
        mrr: For the mean reciprocal rank.
        map: For the mean average precision.

    Raises:
        ValueError: If a rank is less than 1, or there is none for NDCG.
    """

    accuracy: tuple[int, ...]
    precision_recall: tuple[int, ...]
    ndcg: tuple[int, ...]
    mrr: tuple[int, ...]
    map: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, ranks in asdict(self).items():
            if any(k < 1 for k in ranks):
                raise ValueError(f"{name}_at_k must hold numbers of at least 1; got {list(ranks)}.")
        if not self.ndcg:
            raise ValueError("ndcg_at_k must hold at least one number: the primary metric is NDCG; got none.")

    @property
    def largest(self) -> int:
        """How many results of each query are needed."""
        return max(k for ranks in asdict(self).values() for k in ranks)

    def metrics(self, hits: NDArray[np.bool_], relevant: NDArray[np.int64]) -> dict[str, float]:
        """All metrics, keyed ``accuracy@{k}`` and so on.

        Args:
            hits: Whether the result at each rank is relevant (queries, ranks), best first.
            relevant: Number of relevant documents of each query, at least 1 (queries,).
        """
        return {
            **{f"accuracy@{k}": accuracy_at(hits, k) for k in self.accuracy},
            **{f"precision@{k}": precision_at(hits, k) for k in self.precision_recall},
            **{f"recall@{k}": recall_at(hits, relevant, k) for k in self.precision_recall},
            **{f"ndcg@{k}": ndcg_at(hits, relevant, k) for k in self.ndcg},
            **{f"mrr@{k}": mrr_at(hits, k) for k in self.mrr},
            **{f"map@{k}": map_at(hits, relevant, k) for k in self.map},
        }

    def csv_keys(self) -> list[str]:
        """Keys of the metrics in the order of the CSV file's columns."""
        return [
            *(f"accuracy@{k}" for k in self.accuracy),
            *(f"{kind}@{k}" for k in self.precision_recall for kind in ("precision", "recall")),
            *(f"mrr@{k}" for k in self.mrr),
            *(f"ndcg@{k}" for k in self.ndcg),
            *(f"map@{k}" for k in self.map),
        ]


def title(key: str) -> str:
    """A metric's name in the CSV file: ``ndcg@10`` becomes ``NDCG@10``, ``recall@1`` becomes ``Recall@1``.

    Args:
        key: A key of the metrics.
    """
    kind, _, k = key.partition("@")
    return f"{kind.upper() if kind in ('mrr', 'ndcg', 'map') else kind.capitalize()}@{k}"
