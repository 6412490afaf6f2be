"""Triplet losses that mine their triplets within a batch, by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32
from ray_st.losses.labels import one_class
from ray_st.losses.loss import Loss
from ray_st.util.host_facts import host_copy
from ray_st.util.similarity import cos_sim
from ray_st.util.tensors import to_device

Distances = Callable[[Tensor], Tensor]


class BatchHardTripletLossDistanceFunction:
    """Pairwise distances within a batch: functions from (n, d) to (n, n)."""

    @staticmethod
    def cosine_distance(embeddings: Tensor) -> Tensor:
        """One minus the cosine."""
        return 1 - cos_sim(embeddings, embeddings)

    @staticmethod
    def euclidean_distance(embeddings: Tensor, squared: bool = False) -> Tensor:
        """Euclidean distance, or its square.

        Args:
            embeddings: (n, d).
            squared: Whether to omit the square root.
        """
        rows = at_least_float32(embeddings)
        products = rows @ rows.T
        squares = products.diagonal()
        distances = (squares[:, None] - 2 * products + squares[None]).clamp(min=0)
        if squared:
            return distances
        # The square root has an infinite slope at zero, so where two rows are equal the gradient is masked to
        # zero.
        zero = distances == 0
        return distances.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)

    eucledian_distance = euclidean_distance


class _BatchTripletLoss(Loss):
    text_columns: tuple[int, int | None] = (1, 1)
    labels: str = "class"
    different_labels: int = 2
    shown: tuple[str, ...] = ("distance_metric",)
    cites: tuple[str, ...] = ("hermans2017defense",)

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Distances = BatchHardTripletLossDistanceFunction.euclidean_distance,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        self.distance_metric = distance_metric

    def compute(self, columns: Columns) -> Tensor:
        """Loss of the whole pool; zero outside training if no triplet can be formed."""
        labels = columns.pool_labels
        assert labels is not None  # ensured by check_labels
        classes = host_copy(labels)
        alike = one_class(classes, type(self).__name__)
        distances = self.distance_metric(columns.pool[0])
        if alike:
            return distances.sum() * 0
        return self.mine(distances, *_relations(labels), classes)

    def mine(self, distances: Tensor, same: Tensor, positive: Tensor, classes: Tensor) -> Tensor:
        """The loss from the pairwise relations within the pool.

        Args:
            distances: Pairwise distances (N, N).
            same: Whether two rows are of one class (N, N).
            positive: The same without the diagonal.
            classes: The classes (N,), on the host.
        """
        raise AssertionError("each subclass defines its own")


class _WithMargin(_BatchTripletLoss):
    shown: tuple[str, ...] = (*_BatchTripletLoss.shown, "margin")

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Distances = BatchHardTripletLossDistanceFunction.euclidean_distance,
        margin: float = 5,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, distance_metric, gather_across_devices)
        self.margin = margin


class BatchAllTripletLoss(_WithMargin):
    """Mean triplet loss over all triplets of the batch that violate the margin.

    Inputs: single texts with a class as label, at least two rows of each class in a batch: use
    ``BatchSamplers.GROUP_BY_LABEL``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) to distances (n, n).
        margin: How much further away a row of another class should be, in units of the distance.
        gather_across_devices: Whether to form triplets across the rows of all ranks; each rank then
            computes the loss of the whole pool.

    References:
        Hermans, Beyer and Leibe 2017, arXiv:1703.07737.
    """

    def mine(self, distances: Tensor, same: Tensor, positive: Tensor, classes: Tensor) -> Tensor:
        """Mean over the triplets with a loss."""
        # The number of pairs is a shape, so the host lists them: it would wait for a device to count them.
        _, pairs = _relations(classes)
        anchors, others = to_device(pairs.nonzero(), distances.device).unbind(1)
        losses = distances[anchors, others][:, None] - distances[anchors] + self.margin
        losses = F.relu(losses.masked_fill(same[anchors], 0))
        return losses.sum() / (losses > 1e-16).sum().clamp(min=1)


class BatchHardTripletLoss(_WithMargin):
    """Triplet loss of each row with the furthest row of its class and the nearest row of another.

    Inputs: single texts with a class as label, at least two rows of each class in a batch: use
    ``BatchSamplers.GROUP_BY_LABEL``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) to distances (n, n), none below zero.
        margin: How much further away the row of another class should be, in units of the distance.
        gather_across_devices: Whether to mine across the rows of all ranks; each rank then computes the
            loss of the whole pool.

    References:
        Hermans, Beyer and Leibe 2017, arXiv:1703.07737.
    """

    def mine(self, distances: Tensor, same: Tensor, positive: Tensor, classes: Tensor) -> Tensor:
        """Mean over the rows."""
        return F.relu(_hardest(distances, same, positive) + self.margin).mean()


class BatchHardSoftMarginTripletLoss(_BatchTripletLoss):
    """:class:`BatchHardTripletLoss` with ``log(1 + exp(d(a, p) - d(a, n)))`` instead of a margin.

    Inputs: single texts with a class as label, at least two rows of each class in a batch: use
    ``BatchSamplers.GROUP_BY_LABEL``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) to distances (n, n), none below zero.
        gather_across_devices: Whether to mine across the rows of all ranks; each rank then computes the
            loss of the whole pool.

    References:
        Hermans, Beyer and Leibe 2017, arXiv:1703.07737.
    """

    def mine(self, distances: Tensor, same: Tensor, positive: Tensor, classes: Tensor) -> Tensor:
        """Mean over the rows."""
        return F.softplus(_hardest(distances, same, positive)).mean()


class BatchSemiHardTripletLoss(_WithMargin):
    """Triplet loss of each same-class pair with the nearest row of another class beyond the pair's distance.

    If no row of another class is further away, the furthest one is used.

    Inputs: single texts with a class as label, at least two rows of each class in a batch: use
    ``BatchSamplers.GROUP_BY_LABEL``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: Maps (n, d) to distances (n, n).
        margin: How much further away the row of another class should be, in units of the distance.
        gather_across_devices: Whether to mine across the rows of all ranks; each rank then computes the
            loss of the whole pool.

    References:
        Schroff, Kalenichenko and Philbin 2015, arXiv:1503.03832.
    """

    def mine(self, distances: Tensor, same: Tensor, positive: Tensor, classes: Tensor) -> Tensor:
        """Mean over the pairs."""
        # The nearest row of another class beyond each pair: a binary search in the sorted distances to other
        # classes instead of a comparison of all triplets.
        ordered = distances.masked_fill(same, torch.inf).sort(dim=1).values
        after = torch.searchsorted(ordered.detach(), distances.detach().contiguous(), right=True)
        further = ordered.gather(1, after.clamp(max=len(same) - 1))
        furthest = distances.masked_fill(same, -torch.inf).max(dim=1, keepdim=True).values
        negative = torch.where(further.isfinite(), further, furthest)
        losses = F.relu(distances - negative + self.margin).masked_fill(~positive, 0)
        return losses.sum() / positive.sum().clamp(min=1)


def _relations(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Whether two rows are of one class (N, N), and the same without the diagonal."""
    same = classes[:, None] == classes[None]
    return same, same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _hardest(distances: Tensor, same: Tensor, positive: Tensor) -> Tensor:
    furthest = distances.masked_fill(~positive, 0).max(dim=1).values
    nearest = distances.masked_fill(same, torch.inf).min(dim=1).values
    return furthest - nearest
