"""The scores that a loss over pairs sees in a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_st.util.tensors import to_device


@dataclass(frozen=True, eq=False)
class Scores:
    """The logits of all pairs of this rank's rows.

    Attributes:
        logits: (P, k) of all pairs, row by row, at least float32, after the loss's activation function.
        counts: Number of pairs of each row (n,), at least 1, on the host.
        labels: (n,) or (n, c), or None; for lists of documents (n, m), with m the largest count, and NaN at
            the end of shorter rows.
        total: Sum of what the cluster's rows count, where the loss weighs them; see
            :meth:`ray_st.losses.scores.score_loss.ScoreLoss.row_weights`. None if each counts 1.
        cluster_rows: Rows of the cluster's batch, where the loss needs them; otherwise None.
    """

    logits: Tensor
    counts: NDArray[np.int64]
    labels: Tensor | None = None
    total: Tensor | None = None
    cluster_rows: int | None = None

    @property
    def rows(self) -> int:
        """Number of rows n of this rank."""
        return len(self.counts)

    @property
    def width(self) -> int:
        """The largest number m of pairs of a row."""
        return int(self.counts.max())

    @cached_property
    def mask(self) -> Tensor:
        """Which places of a table hold a pair: bool (n, m), on the device of the logits."""
        if self._even:
            return torch.ones(self.rows, self.width, dtype=torch.bool, device=self.logits.device)
        return to_device(torch.from_numpy(self._taken), self.logits.device)

    def table(self, fill: float = 0.0) -> Tensor:
        """The logits of a model with one label, a row for each query (n, m).

        Args:
            fill: Value after the last pair of shorter rows.
        """
        flat = self.logits.reshape(-1)
        if self._even:
            return flat.reshape(self.rows, self.width)
        places = to_device(torch.from_numpy(np.flatnonzero(self._taken)), flat.device)
        empty = flat.new_full((self.rows * self.width,), fill)
        return empty.index_copy(0, places, flat).reshape(self.rows, self.width)

    def label_table(self, fill: float = 0.0) -> Tensor:
        """The labels of lists of documents (n, m), of the logits' type.

        Args:
            fill: Value after the last document of shorter lists.
        """
        assert self.labels is not None  # ensured by check_labels
        return self.labels.to(self.logits.dtype).masked_fill(~self.mask, fill)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over rows; with row weights the sum over what all rows count.

        The mean of what the ranks get here, weighted by their rows, is that of the whole batch.

        Args:
            values: One for each row of this rank (n,), times what it counts; or the sum of these.
        """
        if self.total is None:
            return values.sum() / self.rows
        return self.sum(values) / torch.where(self.total > 0, self.total, 1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over rows, scaled so that its mean over ranks, weighted by their rows, is the cluster's sum.

        Args:
            values: One for each row of this rank (n,), or their sum.
        """
        return values.sum() * ((self.cluster_rows or self.rows) / self.rows)

    @property
    def _even(self) -> bool:
        return bool((self.counts == self.counts[0]).all())

    @property
    def _taken(self) -> NDArray[np.bool_]:
        return np.arange(self.width) < self.counts[:, None]
