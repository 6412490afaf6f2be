"""ListMLE: the likelihood of a list's right order, by the Plackett-Luce model, with weights of positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_st.losses.scores.lists import ListLoss
from ray_st.losses.scores.score_loss import Activation
from ray_st.losses.scores.scores import Scores

EPSILON = 1e-10
"""Added to the sum of weights, which is 0 for a list of one document."""
_LARGEST_POWER = 127  # of 2, in float32


class PListMLELambdaWeight(nn.Module):
    r"""Weights of positions: by default :math:`2^{m - rank} - 1` for a list of m documents.

    Args:
        rank_discount_fn: Maps the mask of documents, bool (n, m), to weights (n, m), 0 after the end of a
            list; None for the default.
    """

    def __init__(self, rank_discount_fn: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.rank_discount_fn = rank_discount_fn

    def forward(self, mask: Tensor) -> Tensor:
        """Weights (n, m), which the loss divides by their sum.

        Args:
            mask: Which places hold a document, bool (n, m).

        Returns:
            The weights. Those of lists over 127 documents are scaled down, so that their sum stays finite.
        """
        if self.rank_discount_fn is not None:
            return self.rank_discount_fn(mask)
        length = mask.sum(1, keepdim=True)
        ranks = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        down = (length - _LARGEST_POWER).clamp(min=0)
        return (torch.exp2((length - ranks - down).float()) - torch.exp2(-down.float())) * mask


class PListMLELoss(ListLoss):
    r"""Negative log likelihood of the right order of each list, in which early positions weigh more.

    With the scores :math:`s_1, ..., s_m` in the right order and weights :math:`w_i` that sum to 1:
    :math:`-\sum_i w_i \log (\exp s_i / \sum_{j \ge i} \exp s_j)`, a mean over queries. Without
    ``lambda_weight`` each weight is 1.

    Inputs: (query, [doc_1, ..., doc_m]) with labels [score_1, ..., score_m]; lists may differ in length.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        lambda_weight: Weights of positions; None for 1 each, as in :class:`ListMLELoss`.
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache; see
            :class:`ray_st.losses.scores.lists.ListLoss`.
        respect_input_order: Whether documents are given in the right order, the most relevant first, so that
            labels are not looked at. Otherwise they are sorted by their labels; equal ones keep their order.

    Raises:
        ValueError: If the model has several labels, or documents and labels do not fit.

    References:
        Lan et al. 2014, Position-Aware ListMLE (UAI).
    """

    shown: tuple[str, ...] = ("lambda_weight", "activation_fn", "mini_batch_size", "respect_input_order")
    cites: tuple[str, ...] = ("lan2014position",)

    def __init__(
        self,
        model: nn.Module,
        lambda_weight: PListMLELambdaWeight | None = PListMLELambdaWeight(),  # noqa: B008 (stateless)
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int | None = None,
        respect_input_order: bool = True,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)
        self.lambda_weight = lambda_weight
        self.respect_input_order = respect_input_order

    def compute(self, scores: Scores) -> Tensor:
        """Mean over this rank's queries."""
        # Finite after the end of a list: the gradient of sums of exponentials of -inf alone is NaN.
        least = torch.finfo(scores.logits.dtype).min
        table, mask = scores.table(least), scores.mask
        if not self.respect_input_order:
            labels = scores.label_table(-torch.inf)
            table = table.gather(1, labels.sort(dim=1, descending=True, stable=True).indices)
        remaining = table.flip(1).logcumsumexp(1).flip(1)
        likelihoods = (table - remaining).masked_fill(~mask, 0.0)
        if self.lambda_weight is not None:
            weights = self.lambda_weight(mask).to(likelihoods.dtype)
            likelihoods = likelihoods * (weights / (weights.sum(1, keepdim=True) + EPSILON))
        return scores.mean(-likelihoods.sum(1))


class ListMLELoss(PListMLELoss):
    """Negative log likelihood of the right order of each list: :class:`PListMLELoss` without weights.

    Inputs: (query, [doc_1, ..., doc_m]) with labels [score_1, ..., score_m]; lists may differ in length.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache; see
            :class:`ray_st.losses.scores.lists.ListLoss`.
        respect_input_order: Whether documents are given in the right order, the most relevant first, so that
            labels are not looked at. Otherwise they are sorted by their labels; equal ones keep their order.

    Raises:
        ValueError: If the model has several labels, or documents and labels do not fit.

    References:
        Xia et al. 2008, doi:10.1145/1390156.1390306.
    """

    shown: tuple[str, ...] = ("activation_fn", "mini_batch_size", "respect_input_order")
    cites: tuple[str, ...] = ("10.1145/1390156.1390306",)

    def __init__(
        self,
        model: nn.Module,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int | None = None,
        respect_input_order: bool = True,
    ) -> None:
        super().__init__(model, None, activation_fn, mini_batch_size, respect_input_order)
