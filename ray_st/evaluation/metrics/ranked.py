"""Metrics of documents ranked for several queries at once, each with its own candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranked:
    """The documents of all queries, query by query, best first; ties keep the order of the documents.

    Attributes:
        query: Number of the query (n,).
        rank: Rank for its query, from 0 (n,).
        relevant: Whether it is relevant (n,).
        tie: Number of its group of documents of equal score for the same query (n,).
        positives: Relevant documents of each query (queries,), at least 1.
    """

    query: NDArray[np.int64]
    rank: NDArray[np.int64]
    relevant: NDArray[np.bool_]
    tie: NDArray[np.int64]
    positives: NDArray[np.int64]

    @classmethod
    def of(
        cls, scores: NDArray[np.floating], relevant: NDArray[np.bool_], counts: NDArray[np.int64]
    ) -> Ranked:
        """Ranks documents.

        Args:
            scores: Of all documents, query by query (n,), finite.
            relevant: Whether each is relevant (n,); at least one of each query.
            counts: Documents of each query (queries,), each at least 1.
        """
        query = np.repeat(np.arange(len(counts)), counts)
        # Positions within each query: the running index minus where the query begins.
        rank = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
        order = np.lexsort((-scores, query))
        scores, relevant = scores[order], relevant[order]
        differs = np.append(True, scores[1:] != scores[:-1]) | (rank == 0)
        positives = np.bincount(query[relevant], minlength=len(counts))
        return cls(query, rank, relevant, np.cumsum(differs) - 1, positives)

    def average_precision(self) -> float:
        """Mean average precision; precision counts all documents of equal score."""
        found = self._found()
        last = np.flatnonzero(np.diff(self.tie, append=-1))
        precision = (found[last] / (self.rank[last] + 1))[self.tie]
        sums = np.bincount(self.query, weights=precision * self.relevant)
        return float((sums / self.positives).mean())

    def reciprocal_rank(self, k: int) -> float:
        """Mean over queries of one over the rank of the first relevant document, 0 beyond k."""
        ranks = self.rank[self.relevant & (self._found() == 1)] + 1
        return float(np.where(ranks <= k, 1 / ranks, 0.0).mean())

    def ndcg(self, k: int) -> float:
        """Mean over queries of the discounted cumulative gain of the first k, over the best possible.

        Documents of equal score share their mean gain (McSherry and Najork 2008), the average over all their
        orders. The discount at rank r is 1 / log2(r + 1).
        """
        discounts = 1 / np.log2(np.arange(2, min(k, int(self.rank.max()) + 1) + 2))
        gain = np.bincount(self.tie, weights=self.relevant) / np.bincount(self.tie)
        first = self.rank < k
        gained = np.bincount(self.query[first], weights=gain[self.tie[first]] * discounts[self.rank[first]])
        best = np.cumsum(discounts)[np.minimum(self.positives, k) - 1]
        return float((gained / best).mean())

    def metrics(self, k: int) -> dict[str, float]:
        """``map``, and ``mrr@{k}`` and ``ndcg@{k}`` of the first k."""
        values = (self.average_precision(), self.reciprocal_rank(k), self.ndcg(k))
        return dict(zip(ranked_names(k), values, strict=True))

    def _found(self) -> NDArray[np.int64]:
        """Relevant documents of the same query up to and including each (n,)."""
        return np.cumsum(self.relevant) - (np.cumsum(self.positives) - self.positives)[self.query]


def ranked_names(k: int) -> list[str]:
    """The names of :meth:`Ranked.metrics`."""
    return ["map", f"mrr@{k}", f"ndcg@{k}"]


def metrics_of_rankings(
    rankings: Sequence[Sequence[bool]], positives: Sequence[int], k: int
) -> dict[str, float]:
    """The metrics of given rankings.

    Relevant documents that a ranking lacks count as its last ones; a ranking without any is worth 0.

    Args:
        rankings: For each query whether each document is relevant, best first.
        positives: Number of relevant documents of each query.
        k: Ranks that count.
    """
    found = [
        [*ranking, *[True] * (count - sum(ranking))]
        for ranking, count in zip(rankings, positives, strict=True)
        if any(ranking)
    ]
    if not found:
        return dict.fromkeys(ranked_names(k), 0.0)
    counts = np.array([len(ranking) for ranking in found], dtype=np.int64)
    falling = -np.arange(counts.sum(), dtype=np.float64)
    metrics = Ranked.of(falling, np.concatenate(found), counts).metrics(k)
    share = len(found) / len(rankings)  # the others score 0
    return {name: share * value for name, value in metrics.items()}
