"""Ranking losses over pairs with scores: CoSENT, and AnglE with the angle in complex space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32
from ray_st.losses.loss import Loss
from ray_st.util.similarity import pairwise_angle_sim, pairwise_cos_sim


class CoSENTLoss(Loss):
    r"""Penalises each two pairs whose similarities are ordered differently from their labels.

    With :math:`s_i` the similarity of pair i and :math:`y_i` its label:
    :math:`\log (1 + \sum_{y_i < y_j} \exp(scale \cdot (s_i - s_j)))`. Only the order of the labels counts.

    Inputs: (input_A, input_B) with a float score as label.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities, the inverse of a temperature.
        similarity_fct: Maps (n, d) and (n, d) to the similarities of the pairs (n,).
        gather_across_devices: Whether pairs are compared with those of all ranks, as if the batch were on one
            device; each rank then computes the loss of the whole pool.

    References:
        Huang et al. 2024, doi:10.1109/TASLP.2024.3402087.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "float score"
    different_labels: int = 2
    shown = ("scale", "similarity_fct")
    cites = ("huang2024cosent",)

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        self.scale = scale
        self.similarity_fct = similarity_fct

    def compute(self, columns: Columns) -> Tensor:
        """Loss of all pairs of the pool, in n log n time and linear memory."""
        assert columns.pool_labels is not None  # ensured by check_labels
        scores = at_least_float32(self.similarity_fct(*columns.pool)) * self.scale
        negated, order = (-columns.pool_labels).sort()
        scores = scores[order]
        # Pair i should score below the first above[i] pairs of this order, so a cumulative logsumexp replaces
        # the matrix of all pairs.
        above = torch.searchsorted(negated, negated)
        running = torch.cat([scores.new_full((1,), -torch.inf), torch.logcumsumexp(-scores, dim=0)])
        return torch.logsumexp(torch.cat([scores.new_zeros(1), scores + running[above]]), dim=0)


class AnglELoss(CoSENTLoss):
    """:class:`CoSENTLoss` with the angle in complex space, whose gradient does not vanish at its ends.

    See :func:`ray_st.util.pairwise_angle_sim`.

    Inputs: (input_A, input_B) with a float score as label; or (anchor, positive, negative_1, ...,
    negative_n), with or without scores of the positives: each anchor then pairs with every other column,
    negatives with one minus the score, which is 1 if there is none.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities, the inverse of a temperature.
        gather_across_devices: Whether pairs are compared with those of all ranks.

    References:
        Li and Li 2024, arXiv:2309.12871.
    """

    text_columns: tuple[int, int | None] = (2, None)
    labels: str = "optional float score"
    different_labels: int = 1
    cites = ("li-li-2024-aoe",)

    def __init__(self, model: nn.Module, scale: float = 20.0, gather_across_devices: bool = False) -> None:
        super().__init__(model, scale, pairwise_angle_sim, gather_across_devices)

    def compute(self, columns: Columns) -> Tensor:
        """Loss of all pairs of the pool."""
        anchors, positives, *negatives = columns.pool
        labels = columns.pool_labels
        if labels is None:
            if not negatives:
                raise ValueError(
                    "AnglELoss needs labels (float score) with two text columns; found none. "
                    "Give the dataset a column named label or score, or a column of negatives."
                )
            labels = anchors.new_ones(len(anchors))
        firsts = anchors.repeat(1 + len(negatives), 1)
        seconds = torch.cat([positives, *negatives])
        scores = torch.cat([labels, *[1 - labels] * len(negatives)])
        return super().compute(replace(columns, pool=(firsts, seconds), pool_labels=scores))
