"""The best documents of each query, merged from parts of a corpus; ties go to the lower document number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ray_st.util.similarity import cos_sim, dot_score
from ray_st.util.tensors import normalize_embeddings

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps queries (q, d) and documents (m, d) to scores (q, m); higher is better."""

SCORES_AT_ONCE = 2**25
"""Maximum number of similarities held at a time: 128 MiB in float32."""


@dataclass(frozen=True)
class Ranking:
    """The best documents of each query, best first; ties go to the lower document number.

    Attributes:
        scores: (queries, k).
        documents: Their numbers in the corpus (queries, k).
    """

    scores: Tensor
    documents: Tensor

    @classmethod
    def nothing(cls, queries: Tensor) -> Ranking:
        """The ranking of an empty search.

        Args:
            queries: (q, d).
        """
        empty = queries.new_empty((len(queries), 0))
        return cls(empty, empty.long())

    def place_of_nan(self) -> tuple[int, int] | None:
        """A query and a document whose score is NaN, if there are any; NaN ranks first."""
        places = self.scores.isnan().nonzero()
        if not len(places):
            return None
        query, rank = places[0].tolist()
        return query, int(self.documents[query, rank])


def merge(rankings: Sequence[Ranking], k: int) -> Ranking:
    """The best k of several rankings of the same queries over different documents.

    Args:
        rankings: At least one, in any order.
        k: Number of documents to keep for each query.
    """
    scores = torch.cat([ranking.scores for ranking in rankings], dim=1)
    # Sorted by number first, so that the stable sort by score leaves ties in the order of numbers.
    documents, order = torch.cat([ranking.documents for ranking in rankings], dim=1).sort(dim=1)
    return _sorted(scores.gather(1, order), documents, k)


def rank(
    queries: Tensor,
    documents: Tensor,
    similarity: ScoreFunction,
    k: int,
    numbers: Tensor,
    scores_at_once: int = SCORES_AT_ONCE,
) -> Ranking:
    """Ranks some documents for all queries, a few queries at a time.

    Args:
        queries: (q, d).
        documents: (m, d).
        similarity: Scores each query with each document.
        k: Number of documents to keep for each query.
        numbers: Numbers of these documents in the corpus (m,), ascending.
        scores_at_once: Maximum number of scores held at a time; at least those of one query.

    Raises:
        ValueError: If queries and documents have different dimensions.
    """
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            "Queries and documents must have embeddings of the same dimension; found "
            f"{queries.shape[1]} and {documents.shape[1]}."
        )
    if similarity is cos_sim:  # normalise the documents once, not once per part of the queries
        queries, documents = normalize_embeddings(queries), normalize_embeddings(documents)
        similarity = dot_score
    numbers = numbers.to(documents.device)
    part = max(1, scores_at_once // max(1, len(documents)))
    found = [best(similarity(some, documents), k) for some in queries.split(part)]
    return Ranking(
        torch.cat([ranking.scores for ranking in found]),
        numbers[torch.cat([ranking.documents for ranking in found])],
    )


def best(scores: Tensor, k: int) -> Ranking:
    """The k highest scores of each row; ties go to the first.

    Args:
        scores: (q, m).
        k: Number of columns to keep; all if there are fewer.
    """
    k = min(k, scores.shape[1])
    values, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # topk breaks ties arbitrarily, so rows whose last score kept equals the next one are sorted in full.
    undecided = values[:, k:].eq(values[:, k - 1 : k]).any(dim=1)
    places, order = places[:, :k].sort(dim=1)
    found = _sorted(values.gather(1, order), places, k)
    if undecided.any():
        values, places = scores[undecided].sort(dim=1, descending=True, stable=True)
        found.scores[undecided], found.documents[undecided] = values[:, :k], places[:, :k]
    return found


def _sorted(scores: Tensor, documents: Tensor, k: int) -> Ranking:
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return Ranking(values[:, :k], documents.gather(1, order)[:, :k])
