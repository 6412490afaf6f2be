"""What a loss sees of a step: embeddings of this rank and of the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """The embeddings of one step as a loss sees them.

    Attributes:
        mine: For each text column the embeddings (n, d) of this rank's rows.
        pool: For each text column the embeddings (N, d) of the cluster's rows; ``mine`` itself without gathering.
        offset: Row of ``mine[c][0]`` in ``pool[c]``.
        labels: Labels of this rank's rows, (n,) or (n, k), or None.
        pool_labels: Labels of the pool's rows, (N,) or (N, k); ``labels`` itself without gathering.
        features: Features of the text columns, of this rank's rows.
        texts: For each text column the ids (N,) of the pool's texts, equal for equal texts; empty if not known.
        guide: The same rows embedded by a guide, for losses that have one.
        total: Rows of the cluster's batch, where a loss asks for it; otherwise this rank's.
    """

    mine: tuple[Tensor, ...]
    pool: tuple[Tensor, ...]
    offset: int = 0
    labels: Tensor | None = None
    pool_labels: Tensor | None = None
    features: tuple[Mapping[str, Any], ...] = ()
    texts: tuple[Tensor, ...] = ()
    guide: Columns | None = None
    total: int | None = None

    @classmethod
    def local(cls, embeddings: Sequence[Tensor], labels: Tensor | None = None) -> Columns:
        """The columns of a rank that is on its own.

        Args:
            embeddings: For each text column (n, d).
            labels: (n,) or (n, k), or None.
        """
        mine = tuple(embeddings)
        return cls(mine, mine, 0, labels, labels)

    def map(self, change: Callable[[Tensor], Tensor]) -> Columns:
        """These columns with a function applied to the embeddings of each; the guide's stay as they are.

        Args:
            change: Maps embeddings (n, d) to others, row by row.
        """
        mine = tuple(change(column) for column in self.mine)
        pool = mine if self.pool is self.mine else tuple(change(column) for column in self.pool)
        return replace(self, mine=mine, pool=pool)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the rows of the batch, in the form of which the mean over ranks is the cluster's sum.

        Args:
            values: One for each row of this rank (n,).
        """
        rows = len(self.mine[0])
        return values.sum() * ((self.total or rows) / rows)


class Gather(Protocol):
    """Collects rows from all ranks; what training hands to a loss."""

    @property
    def idle(self) -> bool:
        """Whether this rank holds only a filler row in this step, which the pool leaves out."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        """Gives the rows of all ranks (N, ...), with gradient where they have one, and where mine (n, ...) begin."""
