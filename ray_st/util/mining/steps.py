"""From what a search found to a table: a block of queries at a time goes through all steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ray_st.util.mining.choice import Choice
from ray_st.util.mining.pairs import Pairs
from ray_st.util.mining.report import Tally
from ray_st.util.mining.rescore import Scorer, score_pairs
from ray_st.util.mining.search import Found
from ray_st.util.mining.select import REMOVED, are_positives, take, within_limits, worst_positive
from ray_st.util.mining.write import Mined
from ray_st.util.tensors import to_numpy

QUERIES_AT_ONCE = 2**14
"""Queries in a block, which bounds what is held between search and table."""


def mined_blocks(
    pairs: Pairs,
    found: Found,
    choice: Choice,
    score: Scorer | None,
    tally: Tally,
    queries_at_once: int = QUERIES_AT_ONCE,
) -> Iterator[Mined]:
    """The negatives of all pairs, in blocks of consecutive queries; the same whatever the size of a block.

    Args:
        pairs: What is mined.
        found: The candidates.
        choice: Which of them become negatives.
        score: Scores pairs of texts anew; None to keep the scores of the search.
        tally: Collects the figures of the report.
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
