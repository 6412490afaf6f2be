"""Classification of pairs by a linear layer on their embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import widen
from ray_st.losses.loss import Loss
from ray_st.losses.parts import Value
from ray_st.util.host_facts import host_copy


class SoftmaxLoss(Loss):
    """Cross entropy of a linear classifier on ``[u, v, |u - v|, u * v]`` of each pair, owned by the loss.

    Inputs: (input_A, input_B) with a class as label, from 0 to ``num_labels - 1``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        embedding_dimension: Dimension d of the embeddings.
        num_labels: Number of classes.
        concatenation_sent_rep: Whether u and v are inputs of the classifier.
        concatenation_sent_difference: Whether ``|u - v|`` is.
        concatenation_sent_multiplication: Whether ``u * v`` is.
        loss_fct: Maps logits (n, num_labels) and labels to a scalar, a mean over the rows.
        sentence_embedding_dimension: Older name of ``embedding_dimension``.

    Raises:
        ValueError: If the dimension or number of labels is missing, no input is chosen, or a label is out of
            range.

    References:
        Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (classification objective).
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "class"
    shown = (
        "num_labels",
        "concatenation_sent_rep",
        "concatenation_sent_difference",
        "concatenation_sent_multiplication",
    )
    cites = ("reimers-2019-sentence-bert",)

    def __init__(
        self,
        model: nn.Module,
        embedding_dimension: int | None = None,
        num_labels: int | None = None,
        concatenation_sent_rep: bool = True,
        concatenation_sent_difference: bool = True,
        concatenation_sent_multiplication: bool = False,
        loss_fct: Callable[..., Tensor] = nn.CrossEntropyLoss(),  # noqa: B008 (documented, stateless)
        *,
        sentence_embedding_dimension: int | None = None,
    ) -> None:
        super().__init__(model)
        dimension = sentence_embedding_dimension if embedding_dimension is None else embedding_dimension
        inputs = (
            2 * concatenation_sent_rep + concatenation_sent_difference + concatenation_sent_multiplication
        )
        if dimension is None or num_labels is None:
            raise ValueError("SoftmaxLoss needs embedding_dimension and num_labels.")
        if not inputs:
            raise ValueError("SoftmaxLoss needs at least one of its concatenation options to be True.")
        self.embedding_dimension = dimension
        self.num_labels = num_labels
        self.concatenation_sent_rep = concatenation_sent_rep
        self.concatenation_sent_difference = concatenation_sent_difference
        self.concatenation_sent_multiplication = concatenation_sent_multiplication
        first = next(model.parameters(), None)
        device = None if first is None else first.device
        self.classifier = nn.Linear(inputs * dimension, num_labels, device=device)
        self.loss_fct = loss_fct

    def forward(  # type: ignore[override]
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> Value | tuple[list[Tensor], Tensor]:
        """The loss; without labels the embeddings of both columns and the logits (n, num_labels)."""
        features = list(sentence_features)
        if labels is not None:
            return super().forward(features, labels)
        embeddings = self.embed(features)
        return embeddings, self.classify(*embeddings)

    def classify(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (n, num_labels) of pairs.

        Args:
            first: (n, d); dimensions that a modifier truncated count as zero.
            second: (n, d).
        """
        first, second = (widen(rows, self.embedding_dimension) for rows in (first, second))
        inputs = [first, second] if self.concatenation_sent_rep else []
        inputs += [(first - second).abs()] if self.concatenation_sent_difference else []
        inputs += [first * second] if self.concatenation_sent_multiplication else []
        return self.classifier(torch.cat(inputs, dim=1).to(self.classifier.weight.dtype))

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's pairs."""
        return self.loss_fct(self.classify(*columns.mine), columns.labels)

    def check_labels(self, labels: Tensor | None, rows: int) -> Tensor | None:
        """Checks the range of classes for cross entropy; soft labels and those of other functions pass."""
        soft = isinstance(labels, Tensor) and labels.shape == (rows, self.num_labels) and self.num_labels > 1
        if soft or not isinstance(self.loss_fct, nn.CrossEntropyLoss):
            return labels
        classes = super().check_labels(labels, rows)
        assert classes is not None
        seen = host_copy(classes)
        wrong = (seen < 0) | (seen >= self.num_labels)
        wrong &= seen != self.loss_fct.ignore_index
        if wrong.any():
            raise ValueError(
                f"SoftmaxLoss needs labels from 0 to {self.num_labels - 1} (num_labels={self.num_labels}); "
                f"found {seen[wrong].unique().tolist()[:8]}."
            )
        return classes

    @property
    def label_limits(self) -> tuple[bool, float, float]:
        """The range of classes with cross entropy; no limits for other functions."""
        if not isinstance(self.loss_fct, nn.CrossEntropyLoss):
            return False, -math.inf, math.inf
        return True, 0.0, float(self.num_labels - 1)

    @property
    def ignored_label(self) -> float | None:
        """The class that cross entropy ignores, -100 by default."""
        return float(self.loss_fct.ignore_index) if isinstance(self.loss_fct, nn.CrossEntropyLoss) else None

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """A class, or a probability for each class."""
        return (0, 1, self.num_labels) if isinstance(self.loss_fct, nn.CrossEntropyLoss) else ()
