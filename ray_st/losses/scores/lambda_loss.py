"""LambdaLoss: the cost of the order of each two documents of a list, weighted by what it means to nDCG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ray_st.losses.helpers import check_choice
from ray_st.losses.scores.lambda_weights import BaseWeightingScheme, NDCGLoss2PPScheme, NoWeightingScheme
from ray_st.losses.scores.lists import ListLoss
from ray_st.losses.scores.score_loss import Activation
from ray_st.losses.scores.scores import Scores
from ray_st.losses.tiles import mean_in_tiles
from ray_st.util.value_checks import check_at_least_one

_LARGE_LABEL = 64  # whose gain, and any sum of such gains, float32 holds easily


class LambdaLoss(ListLoss):
    r"""Ranks documents by their labels, pair by pair, with weights that follow a ranking metric.

    For each two documents i, j of a query with labels :math:`y_i > y_j`:
    :math:`-w_{ij} \log \sigma(sigma \cdot (s_i - s_j))`, a mean over all such pairs of the batch.

    Inputs: (query, [doc_1, ..., doc_m]) with labels [score_1, ..., score_m]; lists may differ in length.
    Labels below 0 have no gain.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        weighting_scheme: The weights of pairs; None for 1 each.
        k: Only pairs count with a document among the k of the largest scores, as in nDCG@k; at least 1. None
            for all.
        sigma: Factor on the differences of scores.
        eps: Least value of the largest DCG of a list, by which gains are divided.
        reduction_log: Base of the logarithm: "binary" or "natural".
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache; see
            :class:`ray_st.losses.scores.lists.ListLoss`.

    Raises:
        ValueError: If an option is none of these, the model has several labels, or documents and labels do
            not fit.

    References:
        Wang et al. 2018, doi:10.1145/3269206.3271784.
    """

    shown: tuple[str, ...] = (
        "weighting_scheme",
        "k",
        "sigma",
        "eps",
        "reduction_log",
        "activation_fn",
        "mini_batch_size",
    )
    cites: tuple[str, ...] = ("wang2018lambdaloss",)

    def __init__(
        self,
        model: nn.Module,
        weighting_scheme: BaseWeightingScheme | None = NDCGLoss2PPScheme(),  # noqa: B008 (stateless)
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: str = "binary",
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)
        if k is not None:
            check_at_least_one(k=k)
        check_choice("reduction_log", reduction_log, ("natural", "binary"))
        self.weighting_scheme = weighting_scheme or NoWeightingScheme()
        self.k = k
        self.sigma = sigma
        self.eps = eps
        self.reduction_log = reduction_log

    def row_weights(self, scores: Scores) -> Tensor:
        """The number of pairs of documents of each query that count: the mean is over pairs."""
        ranked = _Ranked.of(scores)

        def counted(rows: slice) -> Tensor:
            return self._counted(ranked, rows).sum((1, 2)).to(scores.logits.dtype)

        tile = max(1, self.tile_scores // scores.width**2)
        starts = range(0, scores.rows, tile)
        with torch.no_grad():
            return torch.cat([counted(slice(start, start + tile)) for start in starts])

    def compute(self, scores: Scores) -> Tensor:
        """Mean over this rank's pairs of documents."""
        ranked = _Ranked.of(scores)
        mean = mean_in_tiles(
            lambda rows: self._losses(ranked, rows), scores.rows, scores.width**2, self.tile_scores
        )
        return scores.mean(mean * scores.rows)

    def _counted(self, ranked: _Ranked, rows: slice) -> Tensor:
        """Which pairs of documents count: bool (k, m, m)."""
        labels, mask = ranked.labels[rows], ranked.mask[rows]
        pairs = mask[:, :, None] & mask[:, None, :]
        if self.weighting_scheme.ordered:
            pairs = pairs & (labels[:, :, None] > labels[:, None, :])
        if self.k is None:
            return pairs
        top = torch.arange(labels.shape[1], device=labels.device) < self.k
        return pairs & (top[:, None] | top)

    def _losses(self, ranked: _Ranked, rows: slice) -> Tensor:
        """For each query the sum over its pairs of documents (k,)."""
        logits, labels = ranked.logits[rows], ranked.labels[rows].clamp(min=0.0)
        places = torch.arange(1, labels.shape[1] + 1, device=labels.device, dtype=labels.dtype)
        discount = torch.log2(1 + places)[None]
        best_labels = ranked.best_labels[rows].clamp(min=0.0)
        # Only the ratio of gains counts: those of labels such as 300, which float32 cannot hold, are scaled.
        down = (best_labels[:, :1] - _LARGE_LABEL).clamp(min=0.0)
        best = (torch.exp2(best_labels - down) - torch.exp2(-down)) / discount
        largest = best[:, : self.k].sum(1, keepdim=True).clamp(min=self.eps)
        gain = (torch.exp2(labels - down) - torch.exp2(-down)) / largest
        weights = self.weighting_scheme(gain, discount, labels)
        costs = -weights * logsigmoid(self.sigma * (logits[:, :, None] - logits[:, None, :]))
        total = costs.masked_fill(~self._counted(ranked, rows), 0.0).sum((1, 2))
        return total / math.log(2) if self.reduction_log == "binary" else total


class RankNetLoss(LambdaLoss):
    r"""RankNet: :class:`LambdaLoss` in which every pair of documents counts 1.

    For each two documents i, j of a query with labels :math:`y_i > y_j`:
    :math:`-\log \sigma(sigma \cdot (s_i - s_j))`, a mean over all such pairs of the batch.

    Inputs: (query, [doc_1, ..., doc_m]) with labels [score_1, ..., score_m]; lists may differ in length.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        k: Only pairs count with a document among the k of the largest scores; at least 1. None for all.
        sigma: Factor on the differences of scores.
        eps: Has no effect without weights; part of :class:`LambdaLoss`.
        reduction_log: Base of the logarithm: "binary" or "natural".
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache; see
            :class:`ray_st.losses.scores.lists.ListLoss`.

    Raises:
        ValueError: As there.

    References:
        Burges et al. 2005, doi:10.1145/1102351.1102363.
    """

    shown: tuple[str, ...] = ("k", "sigma", "eps", "reduction_log", "activation_fn", "mini_batch_size")
    cites: tuple[str, ...] = ("burges2005learning",)

    def __init__(
        self,
        model: nn.Module,
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: str = "binary",
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, NoWeightingScheme(), k, sigma, eps, reduction_log, activation_fn, mini_batch_size
        )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The lists of a batch in the order of their scores, the largest first; equal ones keep their order.

    Attributes:
        logits: (n, m), 0 after the end of a list.
        labels: (n, m), 0 after the end of a list.
        mask: Which places hold a document: bool (n, m).
        best_labels: Labels in their own order, the largest first (n, m), 0 after the end of a list.
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor
    best_labels: Tensor

    @classmethod
    def of(cls, scores: Scores) -> _Ranked:
        keys = scores.table(-torch.inf).detach()
        order = keys.sort(dim=1, descending=True, stable=True).indices
        best = scores.label_table(-torch.inf).sort(dim=1, descending=True).values
        return cls(
            scores.table().gather(1, order),
            scores.label_table().gather(1, order),
            scores.mask,  # lists end where they did
            best.masked_fill(~scores.mask, 0.0),
        )
