"""From candidates to negatives, a block of queries at a time: apply limits, then take the best or any."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ray_st.mining.candidates import Found
from ray_st.mining.choice import Choice
from ray_st.mining.pairs import Pairs
from ray_st.mining.report import Tally
from ray_st.mining.rescore import Scorer, score_pairs
from ray_st.mining.write import REMOVED, Mined
from ray_st.util.tensors import to_numpy

QUERIES_AT_ONCE = 2**14
"""Queries per block, which bounds the memory between search and table."""


def mined_blocks(
    pairs: Pairs,
    found: Found,
    choice: Choice,
    score: Scorer | None,
    tally: Tally,
    queries_at_once: int = QUERIES_AT_ONCE,
) -> Iterator[Mined]:
    """The negatives of all pairs, in blocks of consecutive queries; the same for any block size.

    Args:
        pairs: What is mined.
        found: The candidates.
        choice: Which of them to take.
        score: Rescores pairs of texts; None to keep the scores of the search.
        tally: Collects the statistics of the report.
        queries_at_once: Queries in a block.
    """
    draws = np.random.default_rng(choice.seed)
    for start in range(0, len(pairs.queries), queries_at_once):
        mined = _block(pairs, found, slice(start, start + queries_at_once), choice, score, tally, draws)
        tally.add(mined)
        yield mined


def _block(
    pairs: Pairs,
    found: Found,
    block: slice,
    choice: Choice,
    score: Scorer | None,
    tally: Tally,
    draws: np.random.Generator,
) -> Mined:
    mine = pairs.of_queries(block.start, block.stop)
    query_of, positive_of = pairs.query_of[mine], pairs.positive_of[mine]
    local = query_of - block.start
    scores, documents = to_numpy(found.ranking.scores[block]), to_numpy(found.ranking.documents[block])
    positives = to_numpy(found.positives[mine])
    known = are_positives(documents, local, positive_of, len(pairs.corpus))
    own = documents == pairs.own_of[block, None]
    candidate = known | ~own if choice.include_positives else ~(known | own)
    if score is not None:
        scores = _rescored(score, pairs, block.start, documents, candidate)
        positives = score_pairs(score, pairs, query_of, positive_of)
    tally.candidates += int(candidate.sum())
    scores = np.where(candidate, scores, REMOVED)
    scores = within_limits(scores, worst_positive(positives, local), choice, tally.removed)
    scores, documents = take(scores, documents, choice, draws)
    return Mined(
        pairs.queries, pairs.corpus, query_of, positive_of, positives, documents[local], scores[local]
    )


def _rescored(
    score: Scorer, pairs: Pairs, first: int, documents: np.ndarray, candidate: np.ndarray
) -> np.ndarray:
    row, place = np.nonzero(candidate)
    scores = np.full(documents.shape, REMOVED, dtype=np.float32)
    scores[row, place] = score_pairs(score, pairs, first + row, documents[row, place])
    return scores


def are_positives(
    documents: np.ndarray, query_of: np.ndarray, positive_of: np.ndarray, corpus: int
) -> np.ndarray:
    """Which candidates are positives of their query.

    Args:
        documents: Numbers of the candidates of each query (q, c).
        query_of: Row in ``documents`` of each pair (p,).
        positive_of: Number of its positive (p,).
        corpus: Documents in the corpus.

    Returns:
        (q, c) of bool.
    """
    # A pair becomes one number, so that membership is a binary search.
    known = np.sort(query_of * corpus + positive_of)
    keys = np.arange(len(documents))[:, None] * corpus + documents
    places = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return known[places] == keys


def worst_positive(scores: np.ndarray, query_of: np.ndarray) -> np.ndarray:
    """The lowest score of a positive of each query (q,), the reference of margins.

    Args:
        scores: Score of each pair (p,).
        query_of: Its query (p,), ascending, each at least once.
    """
    return np.minimum.reduceat(scores, np.flatnonzero(np.diff(query_of, prepend=-1)))


def within_limits(
    scores: np.ndarray, worst: np.ndarray, choice: Choice, removed: dict[str, int]
) -> np.ndarray:
    """The scores, with :data:`REMOVED` for candidates outside a limit.

    Args:
        scores: (q, c).
        worst: The score of each query's worst positive (q,).
        choice: The limits.
        removed: Counts the candidates removed by each limit; updated.
    """
    for name, outside in _outside(scores, worst, choice):
        outside &= scores != REMOVED
        removed[name] = removed.get(name, 0) + int(outside.sum())
        scores = np.where(outside, REMOVED, scores)
    return scores


def _outside(scores: np.ndarray, worst: np.ndarray, choice: Choice) -> Iterator[tuple[str, np.ndarray]]:
    worst = worst[:, None]
    if choice.absolute_margin is not None:
        yield "absolute_margin", scores + choice.absolute_margin > worst
    if choice.relative_margin is not None:
        yield "relative_margin", scores > worst - np.abs(worst) * choice.relative_margin
    if choice.max_score is not None:
        yield "max_score", scores > choice.max_score
    if choice.min_score is not None:
        yield "min_score", scores < choice.min_score


def take(
    scores: np.ndarray, documents: np.ndarray, choice: Choice, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The negatives of each query, best first.

    Args:
        scores: Of the candidates (q, c).
        documents: Their numbers (q, c).
        choice: Which ranks, how many, and how they are taken.
        draws: Random numbers for the strategy "random".

    Returns:
        Scores and numbers (q, n); the score is :data:`REMOVED` where there are too few.
    """
    n = choice.num_negatives
    missing = max(0, choice.range_min + n - scores.shape[1])
    scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=REMOVED)
    documents = np.pad(documents, ((0, 0), (0, missing)))
    ranks = np.argsort(-scores, axis=1, kind="stable")[:, choice.range_min : choice.range_max]
    if choice.sampling_strategy == "random":
        ranks = _any_of(ranks, np.take_along_axis(scores, ranks, axis=1) != REMOVED, n, draws)
    ranks = ranks[:, :n]
    return np.take_along_axis(scores, ranks, axis=1), np.take_along_axis(documents, ranks, axis=1)


def _any_of(ranks: np.ndarray, usable: np.ndarray, n: int, draws: np.random.Generator) -> np.ndarray:
    """Any n usable columns of each row, uniformly, in order; unusable ones only if too few are usable."""
    chance = np.where(usable, draws.random(ranks.shape), 2.0)
    columns = np.sort(np.argsort(chance, axis=1, kind="stable")[:, :n], axis=1)
    return np.take_along_axis(ranks, columns, axis=1)
