"""Batches grouped by label or by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ray_st.data.keys import Keys, Table, keys_of
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import PlannedBatchSampler

if TYPE_CHECKING:
    from torch import Generator


class GroupByLabelBatchSampler(PlannedBatchSampler):
    """Batches with at least two rows for each of their labels, for losses that need in-batch positives.

    The rows of a label are paired at random and its pairs are spread evenly over the epoch, so that each
    batch mirrors the data: a label far larger than the rest appears in every batch, next to others. A row
    without a partner (the odd one of a label, or its only one) is skipped for the epoch; which one is skipped
    changes from epoch to epoch.

    Args:
        dataset: The rows: :class:`ray_st.data.keys.Keys` or a :class:`datasets.Dataset`.
        batch_size: Rows in a global batch; even and at least 4.
        drop_last: Whether to drop an incomplete last batch.
        valid_label_columns: Names that denote a label.
        generator: A :class:`torch.Generator` whose initial seed is used instead of ``seed``.
        seed: Seed of the order.

    Raises:
        ValueError: If the batch size is invalid, there is no label, or fewer than two labels have two rows.
    """

    def __init__(
        self,
        dataset: Keys | Table,
        batch_size: int,
        drop_last: bool = False,
        valid_label_columns: Sequence[str] | None = None,
        generator: Generator | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(batch_size, drop_last, generator, seed)
        if batch_size < 4 or batch_size % 2:
            raise ValueError(f"batch_size must be even and at least 4; got {batch_size}.")
        labels = keys_of(dataset, valid_label_columns).labels
        if labels is None:
            raise ValueError(
                "GroupByLabelBatchSampler needs a column with one label a row; the dataset has none."
            )
        counts = np.bincount(labels)
        if np.count_nonzero(counts >= 2) < 2:
            raise ValueError(
                "GroupByLabelBatchSampler needs at least two labels with two rows each; found "
                f"{np.count_nonzero(counts >= 2)} among {np.count_nonzero(counts)} labels."
            )
        self._labels, self._pairs = labels, counts // 2

    @property
    def left_out(self) -> int:
        """Number of rows skipped in each epoch because they have no partner."""
        return len(self._labels) - 2 * int(self._pairs.sum())

    def steps(self) -> int:
        """Number of batches in every epoch."""
        return self._steps_of(2 * int(self._pairs.sum()))

    def _plan(self, rng: np.random.Generator) -> Plan:
        shuffled = rng.permutation(len(self._labels))
        rows = shuffled[np.argsort(self._labels[shuffled], kind="stable")]
        labels = self._labels[rows]
        place = np.arange(len(rows)) - np.searchsorted(labels, labels)
        paired = place < 2 * self._pairs[labels]
        firsts = np.flatnonzero(paired & (place % 2 == 0))
        # Pair i of the n pairs of a label comes after the share (i + u) / n of the epoch, for a random u of
        # the label.
        of = labels[firsts]
        spread = (place[firsts] // 2 + rng.random(len(self._pairs))[of]) / self._pairs[of]
        firsts = firsts[np.argsort(spread, kind="stable")]
        return Plan.consecutive(
            np.stack([rows[firsts], rows[firsts + 1]], axis=1).reshape(-1), self.batch_size
        )


class GroupByLengthBatchSampler(PlannedBatchSampler):
    """Batches of rows of similar length, to save padding.

    Rows are sorted by token count within random groups of fifty batches.

    Args:
        dataset: The rows, as :class:`ray_st.data.keys.Keys` with token counts.
        batch_size: Rows in a global batch.
        drop_last: Whether to drop an incomplete batch.
        generator: A :class:`torch.Generator` whose initial seed is used instead of ``seed``.
        seed: Seed of the order.

    Raises:
        ValueError: If token counts are unknown.
    """

    GROUP = 50

    def __init__(
        self,
        dataset: Keys | Table,
        batch_size: int,
        drop_last: bool = False,
        generator: Generator | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(batch_size, drop_last, generator, seed)
        tokens = keys_of(dataset).tokens
        if tokens is None:
            raise ValueError("group_by_length needs token counts; the model takes texts, not token ids.")
        self._tokens = tokens

    def steps(self) -> int:
        """Number of batches in every epoch."""
        return self._steps_of(len(self._tokens))

    def _plan(self, rng: np.random.Generator) -> Plan:
        rows = rng.permutation(len(self._tokens))
        group = np.arange(len(rows)) // (self.GROUP * self.batch_size)
        rows = rows[np.lexsort((-self._tokens[rows], group))]
        return _shuffled(Plan.consecutive(rows, self.batch_size), rng)


def _shuffled(plan: Plan, rng: np.random.Generator) -> Plan:
    """The same batches in random order, except that an incomplete last batch stays last."""
    full = len(plan) - int(plan.sizes()[-1] < plan.sizes()[0]) if len(plan) else 0
    order: Indices = np.append(rng.permutation(full), np.arange(full, len(plan)))
    return plan.reorder(order)
