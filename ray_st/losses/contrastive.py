"""Contrastive losses of pairs: close if alike, at least a margin apart if not."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import function_name
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
    r"""Draws alike pairs together and others apart: :math:`\frac{1}{2} (y d^2 + (1 - y) \max(0, margin - d)^2)`.

    Inputs: (anchor, positive or negative) with the label 1 or 0; labels between weigh the two terms.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) and (n, d) to distances d (n,).
        margin: How far apart pairs that are not alike should be.
        size_average: Whether to take the mean over the rows, or their sum.

    References:
        Hadsell, Chopra and LeCun 2006, doi:10.1109/CVPR.2006.100.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "1 if positive, 0 if negative, or between"

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
        assert columns.labels is not None  # check_labels saw to it
        distances = self.distance_metric(*columns.mine)
        labels = columns.labels.to(distances.dtype)
        losses = (labels * distances.pow(2) + (1 - labels) * F.relu(self.margin - distances).pow(2)) / 2
        return losses.mean() if self.size_average else columns.sum(losses)

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {
            "distance_metric": _name(self.distance_metric),
            "margin": self.margin,
            "size_average": self.size_average,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@inproceedings{hadsell2006dimensionality,
    author = {Hadsell, R. and Chopra, S. and LeCun, Y.},
    booktitle = {2006 IEEE Computer Society Conference on Computer Vision and Pattern Recognition},
    title = {Dimensionality Reduction by Learning an Invariant Mapping},
    year = {2006},
    volume = {2},
    pages = {1735-1742},
    doi = {10.1109/CVPR.2006.100},
}
"""


class OnlineContrastiveLoss(Loss):
    """Contrastive loss of the hard pairs of a batch only, summed.

    Hard are pairs that are alike but further apart than the nearest pair that is not, and pairs that are not alike but
    closer than the furthest alike one.

    Inputs: (anchor, positive or negative) with the label 1 or 0.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) and (n, d) to distances (n,).
        margin: How far apart pairs that are not alike should be.
        gather_across_devices: Whether hard pairs are those of all ranks' pairs; each rank then computes the loss of the
            whole pool.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "1 if positive, 0 if negative"
    sums: bool = True

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
        assert columns.pool_labels is not None  # check_labels saw to it
        distances = self.distance_metric(*columns.pool)
        alike, other = distances[columns.pool_labels == 1], distances[columns.pool_labels == 0]
        furthest = (alike.max() if len(alike) else other.mean()).detach()
        nearest = (other.min() if len(other) else alike.mean()).detach()
        drawn = alike[alike > nearest].pow(2).sum()
        pushed = F.relu(self.margin - other[other < furthest]).pow(2).sum()
        # Without gathering the pool is this rank's rows, and the cluster's sum is made of all ranks'.
        return columns.sum(drawn + pushed) if not self.gather_across_devices else drawn + pushed

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {"distance_metric": _name(self.distance_metric), "margin": self.margin}


def _name(metric: Distance) -> str:
    return str(metric) if isinstance(metric, SiameseDistanceMetric) else function_name(metric)
