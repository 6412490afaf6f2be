"""Which query of a batch is scored with which of its documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
