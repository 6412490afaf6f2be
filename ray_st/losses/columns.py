"""The embeddings that a loss sees in a step: this rank's and the pool's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """The embeddings of one step as a loss sees them.

    Attributes:
        mine: For each text column the embeddings (n, d) of this rank's rows.
        pool: For each text column the embeddings (N, d) of the cluster's rows; ``mine`` itself without
            gathering.
        offset: Row of ``mine[c][0]`` in ``pool[c]``.
        labels: Labels of this rank's rows, (n,) or (n, k), or None.
        pool_labels: Labels of the pool's rows, (N,) or (N, k); ``labels`` itself without gathering.
        features: Features of the text columns, of this rank's rows.
        texts: For each text column the ids (N,) of the pool's texts, equal for equal texts; empty if not
            known.
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
        """Applies a function to the embeddings of each column; the guide's are unchanged.

        Args:
            change: Maps embeddings (n, d) to others, row by row.
        """
        mine = tuple(change(column) for column in self.mine)
        pool = mine if self.pool is self.mine else tuple(change(column) for column in self.pool)
        return replace(self, mine=mine, pool=pool)

    def own(self, rows: slice = slice(None)) -> Tensor:
        """Places in the pool of some of this rank's rows (k,)."""
        mine = self.mine[0]
        return torch.arange(len(mine), device=mine.device)[rows] + self.offset

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the rows of this rank, scaled so that its mean over ranks is the cluster's sum.

        Args:
            values: One for each row of this rank (n,).
        """
        # Training weights a rank's loss by its share of rows, rows / total; dividing by it leaves the sum.
        rows = len(self.mine[0])
        return values.sum() * ((self.total or rows) / rows)


class Gather(Protocol):
    """Collects rows from all ranks; training passes one to each loss."""

    @property
    def idle(self) -> bool:
        """Whether this rank has only a filler row in this step, which the pool excludes."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        """Returns all ranks' rows (N, ...), with gradient, and the offset of this rank's rows (n, ...)."""
