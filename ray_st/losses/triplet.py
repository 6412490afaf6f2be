"""Triplet loss with a margin."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss
from ray_st.util.similarity import pairwise_cos_sim, pairwise_euclidean_sim, pairwise_manhattan_sim


class TripletDistanceMetric(Enum):
    """Distances of two rows of embeddings: each member maps (n, d) and (n, d) to distances (n,)."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (n,) between the rows of a (n, d) and b (n, d)."""
        if self is TripletDistanceMetric.COSINE:
            return 1 - pairwise_cos_sim(a, b)
        if self is TripletDistanceMetric.EUCLIDEAN:
            return -pairwise_euclidean_sim(a, b)
        return -pairwise_manhattan_sim(a, b)


class TripletLoss(Loss):
    """Pushes negatives further from anchors than positives: ``mean(max(d(a, p) - d(a, n) + margin, 0))``.

    Inputs: (anchor, positive, negative); no labels.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) and (n, d) to distances (n,).
        triplet_margin: How much further away the negative should be, in units of the distance.

    References:
        Schroff, Kalenichenko and Philbin 2015, arXiv:1503.03832; Hermans, Beyer and Leibe 2017,
        arXiv:1703.07737.
    """

    text_columns: tuple[int, int | None] = (3, 3)
    shown = ("distance_metric", "triplet_margin")
    cites = ("hermans2017defense",)

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Callable[[Tensor, Tensor], Tensor] = TripletDistanceMetric.EUCLIDEAN,
        triplet_margin: float = 5,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.triplet_margin = triplet_margin

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's triplets."""
        anchor, positive, negative = columns.mine
        distances = self.distance_metric(anchor, positive) - self.distance_metric(anchor, negative)
        return F.relu(distances + self.triplet_margin).mean()
