"""Search in memory: the nearest embeddings of a corpus for each query."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ray_st.util.search.top_k import SCORES_AT_ONCE, Ranking, ScoreFunction, merge, rank
from ray_st.util.similarity import cos_sim
from ray_st.util.tensors import Embeddings, to_rows
from ray_st.util.value_checks import check_at_least_one

Hit = dict[str, int | float]
"""A search result: ``corpus_id`` (its number in the corpus) and ``score``."""


def semantic_search(
    query_embeddings: Embeddings,
    corpus_embeddings: Embeddings,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[Hit]]:
    """The best documents of each query, best first; ties go to the lower document number.

    Memory grows with the chunk sizes and with queries times ``top_k``, never with queries times documents.

    Args:
        query_embeddings: (q, d), or one embedding (d,): a tensor, an array, or a list.
        corpus_embeddings: (n, d), in any of these forms; the search runs on their device.
        query_chunk_size: Number of queries compared at a time.
        corpus_chunk_size: Number of documents that they are compared with at a time.
        top_k: Number of documents to find for each query; all if there are fewer.
        score_function: Maps (q, d) and (m, d) to scores (q, m); higher is better.

    Returns:
        For each query a list of dicts with ``corpus_id`` and ``score``.

    Raises:
        ValueError: If the corpus is empty, dimensions differ, a size is less than 1, or a score is NaN.
    """
    check_at_least_one(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, top_k=top_k)
    if not len(corpus_embeddings):
        raise ValueError(
            "semantic_search needs at least one embedding to search; corpus_embeddings is empty."
        )
    corpus = _rows("corpus_embeddings", corpus_embeddings)
    if not len(query_embeddings):
        return []
    queries = to_rows(query_embeddings).to(corpus.device if isinstance(corpus, Tensor) else "cpu")
    found = Ranking.nothing(queries)
    for numbers in torch.arange(len(corpus)).split(corpus_chunk_size):
        documents = to_rows(corpus[int(numbers[0]) : int(numbers[-1]) + 1])
        at_once = min(SCORES_AT_ONCE, query_chunk_size * len(numbers))
        found = merge([found, rank(queries, documents, score_function, top_k, numbers, at_once)], top_k)
    if place := found.place_of_nan():
        raise ValueError(
            f"The score of query {place[0]} and document {place[1]} is no number: look for NaN there."
        )
    return _hits(found)


information_retrieval = semantic_search
"""Older name of :func:`semantic_search`."""


def _hits(found: Ranking) -> list[list[Hit]]:
    rows = zip(found.documents.tolist(), found.scores.tolist(), strict=True)
    return [
        [{"corpus_id": number, "score": score} for number, score in zip(numbers, scores, strict=True)]
        for numbers, scores in rows
    ]


def _rows(name: str, embeddings: Embeddings) -> Any:
    """Two-dimensional embeddings. Arrays are not copied, since only chunks of them become tensors."""
    match embeddings:
        case object(ndim=int()):
            rows: Any = embeddings
        case _:
            rows = to_rows(embeddings)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, (n, d); found the shape {tuple(rows.shape)}.")
    return rows
