"""Tables of mined pairs, one per block of queries, built column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

REMOVED = np.float32(-np.inf)
"""Score of documents that are not, or no longer, candidates."""


@dataclass(frozen=True)
class Mined:
    """Consecutive queries with their positives and negatives.

    Attributes:
        queries: Texts of all queries.
        corpus: Texts of all documents.
        query_of: Number of the query of each pair (p,), ascending.
        positive_of: Number of its positive (p,).
        positive_scores: Its score (p,).
        negatives: Numbers of the negatives of each pair's query (p, n).
        scores: Their scores (p, n); REMOVED where there is none.
    """

    queries: Sequence[str]
    corpus: Sequence[str]
    query_of: np.ndarray
    positive_of: np.ndarray
    positive_scores: np.ndarray
    negatives: np.ndarray
    scores: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """Which negatives exist (p, n)."""
        return self.scores != REMOVED


def triplets(mined: Mined, anchor: str, positive: str, with_scores: bool) -> pa.Table:
    """A row per negative of each pair: anchor, positive, ``negative``, optionally ``scores`` of both."""
    pair, place = np.nonzero(mined.there)
    negatives = mined.negatives[pair, place]
    columns = {
        anchor: _texts(mined.queries, mined.query_of[pair]),
        positive: _texts(mined.corpus, mined.positive_of[pair]),
        "negative": _texts(mined.corpus, negatives),
    }
    if with_scores:
        columns["scores"] = _rows(np.stack([mined.positive_scores[pair], mined.scores[pair, place]], axis=1))
    return pa.table(columns)


def tuples(mined: Mined, anchor: str, positive: str, with_scores: bool) -> pa.Table:
    """A row per pair with all negatives: anchor, positive, ``negative_1`` …, optionally ``scores`` of all."""
    full = mined.there.all(axis=1)
    columns = {
        anchor: _texts(mined.queries, mined.query_of[full]),
        positive: _texts(mined.corpus, mined.positive_of[full]),
    }
    for number, documents in enumerate(mined.negatives[full].T, start=1):
        columns[f"negative_{number}"] = _texts(mined.corpus, documents)
    if with_scores:
        columns["scores"] = _rows(
            np.concatenate([mined.positive_scores[full, None], mined.scores[full]], axis=1)
        )
    return pa.table(columns)


def labeled_pairs(mined: Mined, anchor: str, positive: str, with_scores: bool) -> pa.Table:
    """A row per positive, then per negative of each query, with ``label`` 1 or 0, or ``score``."""
    first = (
        np.diff(mined.query_of, prepend=-1) != 0
    )  # a query's negatives appear once, however many positives it has
    row, place = np.nonzero(mined.there & first[:, None])
    query = np.concatenate([mined.query_of, mined.query_of[row]])
    document = np.concatenate([mined.positive_of, mined.negatives[row, place]])
    order = np.argsort(query, kind="stable")
    columns = {anchor: _texts(mined.queries, query[order]), positive: _texts(mined.corpus, document[order])}
    if with_scores:
        scores = np.concatenate([mined.positive_scores, mined.scores[row, place]])
        columns["score"] = pa.array(scores[order].astype(np.float64))
    else:
        labels = np.repeat([1, 0], [len(mined.query_of), len(row)])
        columns["label"] = pa.array(labels[order].astype(np.int64))
    return pa.table(columns)


def labeled_lists(mined: Mined, anchor: str, positive: str, with_scores: bool) -> pa.Table:
    """A row per pair with a negative: anchor, list of positive and negatives, ``labels`` or ``scores``."""
    some = mined.there.any(axis=1)
    there = np.pad(mined.there[some], ((0, 0), (1, 0)), constant_values=True)
    documents = np.concatenate([mined.positive_of[some, None], mined.negatives[some]], axis=1)
    scores = np.concatenate([mined.positive_scores[some, None], mined.scores[some]], axis=1)
    labels = np.zeros_like(there, dtype=np.int64)
    labels[:, 0] = 1
    values = pa.array(scores[there].astype(np.float64)) if with_scores else pa.array(labels[there])
    ends = np.cumsum([0, *there.sum(axis=1)]).astype(np.int32)
    return pa.table(
        {
            anchor: _texts(mined.queries, mined.query_of[some]),
            positive: pa.ListArray.from_arrays(ends, _texts(mined.corpus, documents[there])),
            "scores" if with_scores else "labels": pa.ListArray.from_arrays(ends, values),
        }
    )


def _texts(texts: Sequence[str], numbers: np.ndarray) -> pa.Array:
    return pa.array([texts[number] for number in numbers.tolist()], pa.string())


def _rows(values: np.ndarray) -> pa.Array:
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(values.astype(np.float64).reshape(-1)))


FORMATS: dict[str, Callable[[Mined, str, str, bool], pa.Table]] = {
    "triplet": triplets,
    "n-tuple": tuples,
    "labeled-pair": labeled_pairs,
    "labeled-list": labeled_lists,
}
"""Output formats: functions of mined pairs, the names of the two columns, and whether to add scores."""
