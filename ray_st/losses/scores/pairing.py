"""Which query of a batch is scored with which of its documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Pairing:
    """The pairs (P,) that a loss chooses from a batch of n rows, sorted by row.

    Pair p is the query of ``row[p]`` with the text of row ``other[p]`` in document column ``column[p]``;
    column 0 holds the positives.

    Attributes:
        row: Rows of the queries (P,), ascending.
        column: Columns of the documents (P,).
        other: Rows of the documents (P,).
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    other: NDArray[np.int64]

    def counts(self, rows: int) -> NDArray[np.int64]:
        """Number of pairs of each row (n,).

        Args:
            rows: Number of rows n.
        """
        return np.bincount(self.row, minlength=rows).astype(np.int64)

    def of(self, start: int, stop: int) -> Pairing:
        """The pairs of some rows, such as one rank's; rows keep their numbers of the whole batch.

        Args:
            start: The first row.
            stop: The row after the last.
        """
        chosen = slice(*np.searchsorted(self.row, [start, stop]))
        return Pairing(self.row[chosen], self.column[chosen], self.other[chosen])


def paired(
    queries: Sequence[T], documents: Sequence[Sequence[Sequence[T]]], chosen: Pairing | None
) -> tuple[list[tuple[T, T]], NDArray[np.int64]]:
    """The pairs of a batch, row by row, and how many each row has (n,).

    Args:
        queries: The query of each row: its text, or its token ids.
        documents: For each column of documents, those of each row; a single one where a loss chooses.
        chosen: The pairs that a loss chose; None for each query with all documents of its own row.
    """
    if chosen is None:
        own = [[text for column in documents for text in column[row]] for row in range(len(queries))]
        pairs = [(query, text) for query, texts in zip(queries, own, strict=True) for text in texts]
        return pairs, np.fromiter(map(len, own), dtype=np.int64, count=len(own))
    places = zip(chosen.row.tolist(), chosen.column.tolist(), chosen.other.tolist(), strict=True)
    pairs = [(queries[row], documents[column][other][0]) for row, column, other in places]
    return pairs, chosen.counts(len(queries))
