"""Ranking of each query's positive above documents of other rows, which are drawn from the batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_st.losses.scores.pairing import Pairing
from ray_st.losses.scores.score_loss import Activation, ScoreLoss
from ray_st.losses.scores.scores import Scores
from ray_st.util.value_checks import is_whole


class MultipleNegativesRankingLoss(ScoreLoss):
    """Cross entropy of each query's positive among its negatives: some drawn from other rows, and its own.

    For each query, ``num_negatives`` documents of other rows of the batch are drawn without replacement, from
    the positives and hard negatives alike; each costs a pair more to score. The scores go through
    ``activation_fn`` and are multiplied by ``scale``. Use ``BatchSamplers.NO_DUPLICATES``, so that no
    negative equals the positive.

    Inputs: (anchor, positive), or (anchor, positive, negative_1, ..., negative_n), without labels.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        num_negatives: Number of negatives drawn for each query; None, or more than there are, for all
            documents of other rows.
        scale: Factor on the scores after the activation function, the inverse of a temperature; 0 counts as
            1.
        activation_fn: Applied to the logits, (n, candidates); None for none.

    Raises:
        ValueError: If the model has several labels, or ``num_negatives`` is less than 0.

    References:
        Henderson et al. 2017, arXiv:1705.00652, section 4.4.
    """

    text_columns: tuple[int, int | None] = (2, None)
    in_batch_negatives: bool = True
    shown: tuple[str, ...] = ("scale", "num_negatives", "activation_fn")

    def __init__(
        self,
        model: nn.Module,
        num_negatives: int | None = 4,
        scale: float = 10.0,
        activation_fn: Activation | None = nn.Sigmoid(),  # noqa: B008 (documented, stateless)
    ) -> None:
        super().__init__(model, activation_fn)
        if num_negatives is not None and not is_whole(num_negatives, 0):
            raise ValueError(f"num_negatives must be a whole number from 0, or None; got {num_negatives!r}.")
        self.num_negatives = num_negatives
        self.scale = scale

    def pairing(self, rows: int, columns: int, rng: np.random.Generator) -> Pairing:
        """For each row its positive, the negatives drawn for it, and its own negatives."""
        row, there = np.arange(rows)[:, None], columns * (rows - 1)
        column, other = np.divmod(self._drawn(rows, there, rng), max(1, rows - 1))
        other = other + (
            other >= row
        )  # documents of other rows were counted column by column, without its own
        own = np.broadcast_to(np.arange(1, columns), (rows, columns - 1))
        columns_of = np.concatenate([np.zeros_like(row), column, own], axis=1)
        rows_of = np.concatenate([row, other, np.broadcast_to(row, own.shape)], axis=1)
        return Pairing(np.repeat(np.arange(rows), columns_of.shape[1]), columns_of.ravel(), rows_of.ravel())

    def _drawn(self, rows: int, there: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """For each row different numbers below ``there`` (rows, drawn), by Floyd's algorithm."""
        wanted = self.num_negatives
        if wanted is None or wanted >= there:
            return np.broadcast_to(np.arange(there), (rows, there))
        drawn = np.empty((rows, wanted), dtype=np.int64)
        for place, last in enumerate(range(there - wanted, there)):
            number = rng.integers(0, last + 1, rows)
            taken = (drawn[:, :place] == number[:, None]).any(1)
            drawn[:, place] = np.where(taken, last, number)
        return drawn

    def activate(self, logits: Tensor) -> Tensor:
        """The logits as they are: the activation function gets a table."""
        return logits

    def compute(self, scores: Scores) -> Tensor:
        """Mean cross entropy of this rank's queries."""
        table = self.activation_fn(scores.table()) * (self.scale or 1.0)
        return scores.mean(torch.logsumexp(table, dim=1) - table[:, 0])


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """:class:`MultipleNegativesRankingLoss` with a gradient cache.

    The memory of activations grows with ``mini_batch_size``, not with the batch or its negatives. Each pair
    is scored twice, the second time with a graph; see :mod:`ray_st.losses.gradient_cache`.

    Inputs: as there.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        num_negatives: Number of negatives drawn for each query; None for all documents of other rows.
        scale: Factor on the scores after the activation function.
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: Pairs scored at a time; at least 1.
        show_progress_bar: Whether both passes show a progress bar.

    Raises:
        ValueError: As there, or if ``mini_batch_size`` is not at least 1.

    References:
        Gao et al. 2021, arXiv:2101.06983.
    """

    shown: tuple[str, ...] = ("scale", "num_negatives", "activation_fn", "mini_batch_size")

    def __init__(
        self,
        model: nn.Module,
        num_negatives: int | None = 4,
        scale: float = 10.0,
        activation_fn: Activation | None = nn.Sigmoid(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int = 32,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__(model, num_negatives, scale, activation_fn)
        self.cache(mini_batch_size, show_progress_bar=show_progress_bar)
