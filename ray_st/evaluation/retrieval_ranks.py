"""At which ranks each retrieval figure is taken, and the figures by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation import metrics


@dataclass(frozen=True)
class Ranks:
    """The ranks k of each retrieval figure.

    Attributes:
        accuracy: For the share of queries that find anything.
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

    def figures(self, hits: NDArray[np.bool_], relevant: NDArray[np.int64]) -> dict[str, float]:
        """All figures, keyed ``accuracy@{k}`` and so on.

        Args:
            hits: Whether the result at each rank is relevant (queries, ranks), best first.
            relevant: Number of relevant documents of each query, at least 1 (queries,).
        """
        return {
            **{f"accuracy@{k}": metrics.accuracy_at(hits, k) for k in self.accuracy},
            **{f"precision@{k}": metrics.precision_at(hits, k) for k in self.precision_recall},
            **{f"recall@{k}": metrics.recall_at(hits, relevant, k) for k in self.precision_recall},
            **{f"ndcg@{k}": metrics.ndcg_at(hits, relevant, k) for k in self.ndcg},
            **{f"mrr@{k}": metrics.mrr_at(hits, k) for k in self.mrr},
            **{f"map@{k}": metrics.map_at(hits, relevant, k) for k in self.map},
        }

    def csv_keys(self) -> list[str]:
        """Keys of the figures in the order of the CSV file's columns."""
        return [
            *(f"accuracy@{k}" for k in self.accuracy),
            *(f"{kind}@{k}" for k in self.precision_recall for kind in ("precision", "recall")),
            *(f"mrr@{k}" for k in self.mrr),
            *(f"ndcg@{k}" for k in self.ndcg),
            *(f"map@{k}" for k in self.map),
        ]


def title(key: str) -> str:
    """A figure's name as the CSV file writes it: ``ndcg@10`` becomes ``NDCG@10``, ``recall@1`` becomes ``Recall@1``.

    Args:
        key: A key of the figures.
    """
    kind, _, k = key.partition("@")
    return f"{kind.upper() if kind in ('mrr', 'ndcg', 'map') else kind.capitalize()}@{k}"
