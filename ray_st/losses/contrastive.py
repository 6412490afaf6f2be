"""Contrastive losses: similar pairs close, dissimilar pairs at least a margin apart."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss

Distance = Callable[[Tensor, Tensor], Tensor]


class SiameseDistanceMetric(Enum):
    """Distances of two rows of embeddings: each member maps (n, d) and (n, d) to distances (n,)."""

    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"
    COSINE_DISTANCE = "cosine_distance"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (n,) between the rows of a (n, d) and b (n, d)."""
        if self is SiameseDistanceMetric.COSINE_DISTANCE:
            return 1 - F.cosine_similarity(a, b)
        return F.pairwise_distance(a, b, p=2 if self is SiameseDistanceMetric.EUCLIDEAN else 1)


class ContrastiveLoss(Loss):
    r"""Pulls similar pairs together, others apart: :math:`(y d^2 + (1 - y) \max(0, margin - d)^2) / 2`.

    Inputs: (anchor, positive or negative) with the label 1 or 0; labels in between weight the two terms.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) and (n, d) to distances d (n,).
        margin: Least distance that dissimilar pairs should have.
        size_average: Whether to take the mean over the rows, or their sum.

    References:
        Hadsell, Chopra and LeCun 2006, doi:10.1109/CVPR.2006.100.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "1 if positive, 0 if negative, or between"
    shown = ("distance_metric", "margin", "size_average")
    cites = ("hadsell2006dimensionality",)

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Distance = SiameseDistanceMetric.COSINE_DISTANCE,
        margin: float = 0.5,
        size_average: bool = True,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.margin = margin
        self.size_average = size_average
        self.sums = not size_average

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's pairs."""
        assert columns.labels is not None  # ensured by check_labels
        distances = self.distance_metric(*columns.mine)
        labels = columns.labels.to(distances.dtype)
        losses = (labels * distances.pow(2) + (1 - labels) * F.relu(self.margin - distances).pow(2)) / 2
        return losses.mean() if self.size_average else columns.sum(losses)


class OnlineContrastiveLoss(Loss):
    """Contrastive loss summed over the hard pairs of a batch.

    Hard positives are further apart than the nearest negative pair; hard negatives are closer than the
    furthest positive pair.

    Inputs: (anchor, positive or negative) with the label 1 or 0.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) and (n, d) to distances (n,).
        margin: Least distance that dissimilar pairs should have.
        gather_across_devices: Whether to mine hard pairs across all ranks; each rank then computes the loss
            of the whole pool.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "1 if positive, 0 if negative"
    sums: bool = True
    shown = ("distance_metric", "margin")

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Distance = SiameseDistanceMetric.COSINE_DISTANCE,
        margin: float = 0.5,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        self.distance_metric = distance_metric
        self.margin = margin

    def compute(self, columns: Columns) -> Tensor:
        """Sum over the hard pairs."""
        assert columns.pool_labels is not None  # ensured by check_labels
        distances = self.distance_metric(*columns.pool)
        alike, seen = columns.pool_labels == 1, distances.detach()
        # Masks instead of selected rows, for whose number the host would wait. If there are no pairs of one
        # kind, all pairs are of the other, and their mean decides.
        furthest = torch.where(alike.any(), seen.masked_fill(~alike, -torch.inf).max(), seen.mean())
        nearest = torch.where(alike.all(), seen.mean(), seen.masked_fill(alike, torch.inf).min())
        hard, close = alike & (seen > nearest), ~alike & (seen < furthest)
        drawn = distances.masked_fill(~hard, 0).pow(2).sum()
        pushed = F.relu(self.margin - distances).masked_fill(~close, 0).pow(2).sum()
        # Without gathering the pool is this rank's rows, and the cluster's sum is made of all ranks'.
        return columns.sum(drawn + pushed) if not self.gather_across_devices else drawn + pushed
