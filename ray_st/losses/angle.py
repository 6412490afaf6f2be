"""CoSENT with the angle in complex space as its similarity."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.cosent import CoSENTLoss
from ray_st.util.similarity import pairwise_angle_sim


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
