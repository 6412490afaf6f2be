"""Classification of pairs by a model with a score for each class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.scores.pointwise import ReducedLoss
from ray_st.losses.scores.score_loss import Activation
from ray_st.losses.scores.scores import Scores
from ray_st.util.host_facts import host_copy


class CrossEntropyLoss(ReducedLoss):
    """Cross entropy of each pair's scores of the classes.

    Inputs: (input_A, input_B) with a class as label, from 0 to ``num_labels - 1``, or with a probability for
    each class.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, num_labels); at least two labels.
        activation_fn: Applied to the logits (n, num_labels).
        kwargs: Options of :class:`torch.nn.CrossEntropyLoss`: ``weight`` of each class, ``ignore_index``,
            ``label_smoothing``, ``reduction``. As there, the mean is over rows that are not ignored, weighted
            by their classes; here over those of all ranks.

    Raises:
        ValueError: If the model has one label, ``weight`` is not one number for each, or a label is out of
            range.
    """

    labels: str = "class"
    model_labels: int | None = None

    def __init__(
        self,
        model: nn.Module,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        **kwargs: Any,
    ) -> None:
        loss_fct = nn.CrossEntropyLoss(**kwargs)
        super().__init__(model, loss_fct, activation_fn)
        self.ignore_index, self.label_smoothing = loss_fct.ignore_index, loss_fct.label_smoothing
        weight = loss_fct.weight
        if weight is not None and weight.shape != (self.num_labels,):
            raise ValueError(
                f"weight must be one number for each of the model's {self.num_labels} classes; got a tensor "
                f"of shape {tuple(weight.shape)}."
            )

    def _check_model(self, found: int | None) -> None:
        super()._check_model(found)
        assert found is not None
        if found < 2:
            raise ValueError(
                f"CrossEntropyLoss needs a model with a score for each class; found num_labels={found}, "
                "whose loss is always 0. Load it with CrossEncoder(..., num_labels=…), or use "
                "BinaryCrossEntropyLoss."
            )
        self.num_labels = found

    def compute(self, scores: Scores) -> Tensor:
        """Loss of this rank's pairs."""
        labels = scores.labels
        assert labels is not None  # ensured by check_labels
        values = F.cross_entropy(
            scores.logits,
            labels.to(scores.logits.dtype) if labels.is_floating_point() else labels,
            self._weight(scores.logits.dtype),
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        # Values have the weights of their classes already.
        return scores.sum(values) if self.sums else scores.mean(values)

    def row_weights(self, scores: Scores) -> Tensor | None:
        """The weight of a row's class; 0 if it is ignored. Rows of probabilities count alike, as in torch."""
        labels = scores.labels
        assert labels is not None  # ensured by check_labels
        if self.sums:
            return None
        if labels.is_floating_point():
            return scores.logits.new_ones(scores.rows)
        counted = labels != self.ignore_index
        weight = self._weight(scores.logits.dtype)
        if weight is None:
            return counted.to(scores.logits.dtype)
        return weight[labels.where(counted, 0)] * counted

    def _weight(self, dtype: torch.dtype) -> Tensor | None:
        """The weight of each class (num_labels,)."""
        weight = self.loss_fct.weight
        return weight.to(dtype) if isinstance(weight, Tensor) else None

    def check_labels(self, labels: Tensor | None, rows: int) -> Tensor | None:
        """Checks the range of classes; probabilities pass."""
        if (
            isinstance(labels, Tensor)
            and labels.is_floating_point()
            and labels.shape == (rows, self.num_labels)
        ):
            return labels
        classes = super().check_labels(labels, rows)
        assert classes is not None
        seen = host_copy(classes)
        wrong = ((seen < 0) | (seen >= self.num_labels)) & (seen != self.ignore_index)
        if wrong.any():
            raise ValueError(
                f"CrossEntropyLoss needs labels from 0 to {self.num_labels - 1} "
                f"(num_labels={self.num_labels}); found {seen[wrong].unique().tolist()[:8]}."
            )
        return classes

    @property
    def label_limits(self) -> tuple[bool, float, float]:
        """The range of classes."""
        return True, 0.0, float(self.num_labels - 1)

    @property
    def ignored_label(self) -> float | None:
        """The class that is ignored, -100 by default."""
        return float(self.ignore_index)

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """A class, or a probability for each class."""
        return 0, 1, self.num_labels
