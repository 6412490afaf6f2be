"""ADR-MSE: the error of differentiable ranks, discounted by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ray_st.losses.scores.lists import ListLoss
from ray_st.losses.scores.score_loss import Activation
from ray_st.losses.scores.scores import Scores
from ray_st.losses.tiles import mean_in_tiles


class ADRMSELoss(ListLoss):
    r"""Squared error of approximate ranks from those of the labels, which counts more for relevant documents.

    The rank of document i is approximated by
    :math:`\hat r_i = 1 + \sum_{j \ne i} \sigma(\alpha (s_j - s_i))`. With its rank :math:`r_i` by label, the
    mean over documents of :math:`(r_i - \hat r_i)^2 / \log_2 (1 + r_i)`. Documents of equal labels share the
    mean of their ranks.

    Inputs: (query, [doc_1, ..., doc_m]) with labels [score_1, ..., score_m]; lists may differ in length.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        alpha: Steepness of the sigmoid: the larger, the closer to whole ranks, and the smaller the gradient
            of documents with distant scores.
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache; see
            :class:`ray_st.losses.scores.lists.ListLoss`.

    Raises:
        ValueError: If the model has several labels, or documents and labels do not fit.

    References:
        Schlatt et al. 2025, arXiv:2405.07920.
    """

    shown: tuple[str, ...] = ("alpha", "activation_fn", "mini_batch_size")
    cites: tuple[str, ...] = ("schlatt2025rankdistillm",)

    def __init__(
        self,
        model: nn.Module,
        alpha: float = 1.0,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)
        self.alpha = alpha

    def row_weights(self, scores: Scores) -> Tensor:
        """The number of documents of each query: the mean is over documents."""
        return scores.mask.sum(1).to(scores.logits.dtype)

    def compute(self, scores: Scores) -> Tensor:
        """Mean over this rank's documents."""
        table, labels, mask = scores.table(), scores.label_table(), scores.mask

        def errors(rows: slice) -> Tensor:
            wanted = _ranks(labels[rows], mask[rows])
            found = self._approximate_ranks(table[rows], mask[rows])
            return ((wanted - found).square() / torch.log2(1 + wanted) * mask[rows]).sum(1)

        mean = mean_in_tiles(errors, scores.rows, scores.width**2, self.tile_scores)
        return scores.mean(mean * scores.rows)

    def _approximate_ranks(self, table: Tensor, mask: Tensor) -> Tensor:
        """Ranks (n, m) of logits (n, m), differentiable."""
        above = torch.sigmoid(self.alpha * (table[:, None, :] - table[:, :, None])) * mask[:, None, :]
        return above.sum(2) + 0.5  # a document is compared with itself too, which gives 0.5


def _ranks(labels: Tensor, mask: Tensor) -> Tensor:
    """Ranks (n, m) of labels (n, m) from 1, equal labels at the mean of their places."""
    there = mask[:, None, :]
    above = ((labels[:, None, :] > labels[:, :, None]) & there).sum(2)
    equal = ((labels[:, None, :] == labels[:, :, None]) & there).sum(2)
    return above.to(labels.dtype) + (equal.to(labels.dtype) + 1) / 2
