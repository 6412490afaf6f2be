"""Distillation of a teacher's margins between the documents of a query."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ray_st.losses.scores.pointwise import ReducedLoss
from ray_st.losses.scores.score_loss import Activation
from ray_st.losses.scores.scores import Scores


class MarginMSELoss(ReducedLoss):
    """Squared error of the margins ``score(q, positive) - score(q, negative)`` from a teacher's.

    The documents need not be a positive and negatives: any of them may be relevant. Scores and labels should
    be of one scale: where a teacher's scores went through a sigmoid, give
    ``activation_fn=torch.nn.Sigmoid()``.

    Inputs: (query, positive, negative_1, ..., negative_k) with labels (n, k), the teacher's margins, or (n, k
    + 1), its scores of the positive and of each negative; for one negative also (n,), its margins.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        activation_fn: Applied to the logits.
        kwargs: Options of :class:`torch.nn.MSELoss`, such as ``reduction``.

    Raises:
        ValueError: If the model has several labels, ``reduction`` is none of "mean" and "sum", or the labels
            do not fit the columns.

    References:
        Hofstätter et al. 2021, arXiv:2010.02666.
    """

    text_columns: tuple[int, int | None] = (3, None)
    labels: str = "teacher scores"
    cites = ("hofstätter2021improving",)

    def __init__(
        self,
        model: nn.Module,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        **kwargs: Any,
    ) -> None:
        super().__init__(model, nn.MSELoss(**kwargs), activation_fn)

    def compute(self, scores: Scores) -> Tensor:
        """Loss of this rank's rows."""
        table = scores.table()
        margins = table[:, :1] - table[:, 1:]
        return self.reduced(scores, self.loss_fct(margins, self._wanted(scores.labels, margins)))

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """Margins, or scores of the positive and each negative; for one negative also a plain number."""
        return (0, 1, 2) if columns == 3 else (columns - 2, columns - 1)

    def _wanted(self, labels: Tensor | None, margins: Tensor) -> Tensor:
        assert labels is not None  # ensured by check_labels
        rows, negatives = margins.shape
        labels = labels.detach().to(margins.dtype)
        if labels.shape == (rows, negatives + 1):
            return labels[:, :1] - labels[:, 1:]
        if labels.ndim == 1 and negatives == 1:
            return labels[:, None]
        if labels.shape != margins.shape:
            raise ValueError(
                f"MarginMSELoss needs for {negatives} negative(s) labels of shape {(rows, negatives)}, the "
                f"margins, or {(rows, negatives + 1)}, the scores of the positive and of each negative; "
                f"found {tuple(labels.shape)}."
            )
        return labels
