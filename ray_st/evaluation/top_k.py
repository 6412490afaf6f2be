"""Best documents of each query, found chunk by chunk with ties in a fixed order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SCORES_AT_ONCE = 2**25
"""Most similarities that are held at a time: 128 MiB in float32."""


@dataclass(frozen=True)
class Ranking:
    """The best documents of each query so far, best first; of equal scores, the lower document number first.

    Attributes:
        scores: (queries, k).
        documents: Their numbers in the corpus (queries, k).
    """

    scores: Tensor
    documents: Tensor

    def merged(self, other: Ranking, k: int) -> Ranking:
        """The best k of two rankings.

        Args:
            other: Of the same queries, over documents with higher numbers.
            k: Documents to keep for each query.
        """
        scores = torch.cat([self.scores, other.scores], dim=1)
        documents = torch.cat([self.documents, other.documents], dim=1)
        return _sorted(scores, documents, k)


def rank(
    queries: Tensor,
    documents: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor],
    k: int,
    first: int = 0,
    scores_at_once: int = SCORES_AT_ONCE,
) -> Ranking:
    """Ranks some documents for all queries, a block of queries at a time.

    Args:
        queries: (q, d).
        documents: (m, d).
        similarity: Maps (q, d) and (m, d) to scores (q, m).
        k: Documents to keep for each query.
        first: Number of the first of these documents in the corpus.
        scores_at_once: Most scores held at a time; at least one query's.
    """
    block = max(1, scores_at_once // max(1, len(documents)))
    parts = [best(similarity(some, documents), k) for some in queries.split(block)]
    return Ranking(
        torch.cat([part.scores for part in parts]),
        torch.cat([part.documents for part in parts]) + first,
    )


def best(scores: Tensor, k: int) -> Ranking:
    """The k highest scores of each row; of equal ones, the first.

    Args:
        scores: (q, m).
        k: Columns to keep; all if there are fewer.
    """
    k = min(k, scores.shape[1])
    values, places = scores.topk(k, dim=1)
    places, order = places.sort(dim=1)
    found = _sorted(values.gather(1, order), places, k)
    # topk chooses freely among scores that equal the last one kept: rows with more of them are sorted in full.
    undecided = (scores >= values.amin(dim=1, keepdim=True)).sum(dim=1) > k
    if undecided.any():
        values, places = scores[undecided].sort(dim=1, descending=True, stable=True)
        found.scores[undecided], found.documents[undecided] = values[:, :k], places[:, :k]
    return found


def _sorted(scores: Tensor, documents: Tensor, k: int) -> Ranking:
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return Ranking(values[:, :k], documents.gather(1, order)[:, :k])
