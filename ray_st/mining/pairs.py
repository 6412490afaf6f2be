"""The data to mine: each query once, each document once, and the pairs of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Pairs:
    """Queries, documents and their pairs, without repetitions.

    Attributes:
        queries: The q queries, in order of appearance.
        corpus: The m documents: the given corpus, then positives that are not in it, in order of appearance.
        query_of: Number of the query of each of the p pairs (p,), ascending; each query has a pair.
        positive_of: Number in the corpus of the positive of each pair (p,).
        own_of: Number in the corpus of the document equal to each query (q,); -1 if there is none.
        rows: Rows of the dataset, repeated pairs included.
        most_rows: Rows of the query that has the most.
    """

    queries: list[str]
    corpus: list[str]
    query_of: np.ndarray
    positive_of: np.ndarray
    own_of: np.ndarray
    rows: int
    most_rows: int

    @classmethod
    def of(cls, queries: list[str], positives: list[str], corpus: Sequence[str] = ()) -> Pairs:
        """Numbers the texts of a dataset.

        Args:
            queries: The query of each row.
            positives: The positive of each row.
            corpus: More documents.
        """
        query_numbers: dict[str, int] = {}
        numbers: dict[str, int] = {}
        for text in corpus:
            numbers.setdefault(text, len(numbers))
        query_rows = np.array([query_numbers.setdefault(text, len(query_numbers)) for text in queries])
        positive_rows = np.array([numbers.setdefault(text, len(numbers)) for text in positives])
        _, first = np.unique(query_rows * len(numbers) + positive_rows, return_index=True)
        # np.unique sorts by number; this restores the order of appearance within each query.
        first = first[np.lexsort((first, query_rows[first]))]
        return cls(
            queries=list(query_numbers),
            corpus=list(numbers),
            query_of=query_rows[first],
            positive_of=positive_rows[first],
            own_of=np.array([numbers.get(text, -1) for text in query_numbers], dtype=np.int64),
            rows=len(queries),
            most_rows=int(np.bincount(query_rows).max()),
        )

    @property
    def most_left_out(self) -> int:
        """Most documents excluded for a query: its positives, and itself if queries are documents."""
        return self.most_rows + int((self.own_of >= 0).any())

    def of_queries(self, start: int, stop: int) -> slice:
        """The pairs of some consecutive queries.

        Args:
            start: Number of the first query.
            stop: Number after the last query.
        """
        first, end = np.searchsorted(self.query_of, [start, stop])
        return slice(int(first), int(end))


def column_names(columns: Sequence[str], anchor: str | None, positive: str | None) -> tuple[str, str]:
    """The columns of queries and positives: by default the first two.

    Args:
        columns: The columns of the dataset.
        anchor: Column of the queries, if named.
        positive: Column of the positives, if named.

    Raises:
        ValueError: If there is no such column, there are fewer than two, or both would be the same.
    """
    if len(columns) < 2:
        raise ValueError(f"Mining needs a column of queries and one of positives; found columns {columns}.")
    for name in (anchor, positive):
        if name is not None and name not in columns:
            raise ValueError(f"There is no column {name!r} in the dataset: {did_you_mean(name, columns)}")
    anchor, positive = anchor or columns[0], positive or columns[1]
    if anchor == positive:
        raise ValueError(
            f"Queries and positives are both taken from column {anchor!r}; name anchor_column_name and "
            f"positive_column_name. The dataset has {columns}."
        )
    return anchor, positive


def read_pairs(dataset: Dataset, anchor: str, positive: str, corpus: Sequence[str] | None = None) -> Pairs:
    """The pairs of a dataset, checked.

    Args:
        dataset: A ``datasets.Dataset`` with a text in both columns of each row.
        anchor: Column of the queries.
        positive: Column of the positives.
        corpus: More documents.

    Raises:
        ValueError: If the dataset is empty, or a text is missing, empty or no string.
    """
    if not len(dataset):
        raise ValueError(
            "The dataset to mine is empty; it needs at least one pair of a query and a positive."
        )
    queries, positives = list(dataset[anchor]), list(dataset[positive])
    _check_texts(queries, f"column {anchor!r}", "row")
    _check_texts(positives, f"column {positive!r}", "row")
    if isinstance(corpus, str):
        raise ValueError(f"corpus must be a list of texts; it is one text: {corpus!r:.80}.")
    documents = [] if corpus is None else list(corpus)
    _check_texts(documents, "the corpus", "entry")
    return Pairs.of(queries, positives, documents)


def _check_texts(texts: Sequence[object], where: str, unit: str) -> None:
    bad = [
        place for place, text in enumerate(texts) if not isinstance(text, str) or not text or text.isspace()
    ]
    if bad:
        raise ValueError(
            f"Each {unit} of {where} must hold a text; {len(bad)} of {len(texts)} do not, the first is "
            f"{unit} {bad[0]}: {texts[bad[0]]!r:.80}. Filter them out first."
        )
