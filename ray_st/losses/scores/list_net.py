"""ListNet: the distribution of scores over a list against that of its labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ray_st.losses.scores.lists import ListLoss
from ray_st.losses.scores.score_loss import Activation
from ray_st.losses.scores.scores import Scores


class ListNetLoss(ListLoss):
    """Cross entropy of the softmax of a list's scores from the softmax of its labels, a mean over queries.

    Inputs: (query, [doc_1, ..., doc_m]) with labels [score_1, ..., score_m]; lists may differ in length.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache; see
            :class:`ray_st.losses.scores.lists.ListLoss`.

    Raises:
        ValueError: If the model has several labels, or documents and labels do not fit.

    References:
        Cao et al. 2007, doi:10.1145/1273496.1273513.
    """

    cites = ("cao2007learning",)

    def __init__(
        self,
        model: nn.Module,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)

    def compute(self, scores: Scores) -> Tensor:
        """Mean over this rank's queries."""
        wanted = scores.label_table(-torch.inf).softmax(1)
        # After the end of a list the logarithm is -inf, which times 0 would be NaN.
        found = scores.table(-torch.inf).log_softmax(1).masked_fill(~scores.mask, 0.0)
        return scores.mean(-(wanted * found).sum(1))
