"""What each pair of documents of a list counts in LambdaLoss; ``gain`` and ``discount`` are those of nDCG."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BaseWeightingScheme(nn.Module):
    """Weights of pairs of documents; subclass it for weights of your own.

    Attributes:
        ordered: Whether only pairs count whose first document has the larger label; otherwise all pairs do,
            also of a document with itself.
    """

    ordered: bool = True

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights of the pairs of documents, in the order of the model's scores, the largest first.

        Args:
            gain: Gain of each document, ``(2^label - 1)`` over the list's largest DCG (n, m); 0 after its
                end.
            discount: Discount of each place, ``log2(1 + rank)`` (1, m).
            true_sorted: Labels, at least 0 (n, m); 0 after the end of a list.

        Returns:
            A number, or what broadcasts to (n, m, m).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(gain, discount, true_sorted).")


class NoWeightingScheme(BaseWeightingScheme):
    """Every pair counts 1, which makes LambdaLoss RankNet's loss."""

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """A one."""
        return gain.new_ones(())


class NDCGLoss1Scheme(BaseWeightingScheme):
    """The discounted gain of the first document: a loose bound of nDCG. Better are the schemes 2 and 2++."""

    ordered = False

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights (n, m, 1)."""
        return (gain / discount)[:, :, None]


class NDCGLoss2Scheme(BaseWeightingScheme):
    r"""Difference of gains, times how much the discount changes at the documents' distance d.

    That is :math:`|1 / D_d - 1 / D_{d + 1}|` with the discount :math:`D_i` of place i: a tighter bound of
    nDCG.
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights (n, m, m)."""
        inverse = discount[0].reciprocal()
        changes = nn.functional.pad((inverse[:-1] - inverse[1:]).abs(), (1, 0))  # at distance 0 none
        places = torch.arange(len(inverse), device=gain.device)
        return changes[(places[:, None] - places).abs()] * _differences(gain)


class LambdaRankScheme(BaseWeightingScheme):
    r"""LambdaRank: how much a swap of two documents changes nDCG, :math:`|G_i - G_j| |1 / D_i - 1 / D_j|`."""

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights (n, m, m)."""
        return _differences(discount.reciprocal()) * _differences(gain)


class NDCGLoss2PPScheme(BaseWeightingScheme):
    """NDCG-Loss2++: the sum of :class:`NDCGLoss2Scheme`, times a factor, and :class:`LambdaRankScheme`.

    Args:
        mu: The factor.
    """

    def __init__(self, mu: float = 10.0) -> None:
        super().__init__()
        self.mu = mu
        self.ndcg_loss2 = NDCGLoss2Scheme()
        self.lambda_rank = LambdaRankScheme()

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights (n, m, m)."""
        bound: Tensor = self.ndcg_loss2(gain, discount, true_sorted)
        swaps: Tensor = self.lambda_rank(gain, discount, true_sorted)
        return self.mu * bound + swaps


def _differences(values: Tensor) -> Tensor:
    """Absolute differences (n, m, m) of each two places of a row (n, m)."""
    return (values[:, :, None] - values[:, None, :]).abs()
