"""Losses of each pair's score by itself: binary cross entropy, and squared error."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ray_st.losses.scores.score_loss import Activation, ScoreLoss
from ray_st.losses.scores.scores import Scores

Function: TypeAlias = nn.BCEWithLogitsLoss | nn.MSELoss | nn.CrossEntropyLoss


class ReducedLoss(ScoreLoss):
    """A loss that torch computes, of each row or element, with the options of torch's class.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, num_labels).
        loss_fct: Torch's loss. Its ``reduction`` says whether this loss is a mean or a sum over rows.
        activation_fn: Applied to the logits; None for none.

    Raises:
        ValueError: If ``reduction`` is none of "mean" and "sum".
    """

    def __init__(self, model: nn.Module, loss_fct: Function, activation_fn: Activation | None = None) -> None:
        super().__init__(model, activation_fn)
        if loss_fct.reduction not in ("mean", "sum"):
            raise ValueError(
                f"{type(self).__name__} is a mean or a sum over rows: reduction must be 'mean' or 'sum'; got "
                f"{loss_fct.reduction!r}."
            )
        self.sums = loss_fct.reduction == "sum"
        loss_fct.reduction = "none"  # reduced here, over the rows of all ranks
        self.loss_fct = loss_fct

    def reduced(self, scores: Scores, values: Tensor) -> Tensor:
        """The mean or the sum over rows.

        Args:
            scores: The scores of the step.
            values: Losses (n,), or (n, c), which are averaged or summed for each row first.
        """
        rows = values.reshape(len(values), -1)
        return scores.sum(rows.sum(1)) if self.sums else scores.mean(rows.mean(1))


class BinaryCrossEntropyLoss(ReducedLoss):
    """Binary cross entropy of each pair's score: high for positives, low for negatives.

    Inputs: (anchor, positive or negative) with 1 or 0 as label; or (input_A, input_B) with a similarity from
    0 to 1.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        activation_fn: Applied to the logits, before the sigmoid that is part of the loss.
        pos_weight: What a positive counts as against a negative: a tensor of one number, or a number.
        kwargs: Options of :class:`torch.nn.BCEWithLogitsLoss`: ``weight`` of one number, ``reduction``.

    Raises:
        ValueError: If the model has several labels, a weight several numbers, or a label is outside 0 to 1.
    """

    labels: str = "1 if positive, 0 if negative, or between"

    def __init__(
        self,
        model: nn.Module,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        pos_weight: Tensor | float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["pos_weight"] = _one_number("pos_weight", pos_weight)
        kwargs["weight"] = _one_number("weight", kwargs.get("weight"))
        super().__init__(model, nn.BCEWithLogitsLoss(**kwargs), activation_fn)

    @property
    def pos_weight(self) -> Tensor | None:
        """The weight of positives."""
        return self.loss_fct.get_buffer("pos_weight") if self.loss_fct.pos_weight is not None else None

    def compute(self, scores: Scores) -> Tensor:
        """Loss of this rank's pairs."""
        assert scores.labels is not None  # ensured by check_labels
        logits = scores.logits[:, 0]
        return self.reduced(scores, self.loss_fct(logits, scores.labels.to(logits.dtype)))

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        weight = self.pos_weight
        return {**super().get_config_dict(), "pos_weight": None if weight is None else weight.item()}


class MSELoss(ReducedLoss):
    """Squared error of each pair's score, from a teacher's or a gold one.

    Scores and labels should be of one scale: where a teacher's scores went through a sigmoid, give
    ``activation_fn=torch.nn.Sigmoid()``.

    Inputs: (input_A, input_B) with a float score as label.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        activation_fn: Applied to the logits.
        kwargs: Options of :class:`torch.nn.MSELoss`, such as ``reduction``.

    Raises:
        ValueError: If the model has several labels, or ``reduction`` is none of "mean" and "sum".

    References:
        Hofstätter et al. 2021, arXiv:2010.02666.
    """

    labels: str = "float score"

    def __init__(
        self,
        model: nn.Module,
        activation_fn: Activation | None = nn.Identity(),  # noqa: B008 (documented, stateless)
        **kwargs: Any,
    ) -> None:
        super().__init__(model, nn.MSELoss(**kwargs), activation_fn)

    def compute(self, scores: Scores) -> Tensor:
        """Loss of this rank's pairs."""
        assert scores.labels is not None  # ensured by check_labels
        logits = scores.logits[:, 0]
        return self.reduced(scores, self.loss_fct(logits, scores.labels.detach().to(logits.dtype)))


def _one_number(name: str, value: Tensor | float | None) -> Tensor | None:
    if value is None:
        return None
    # One for each place in a batch would weigh rows by where a shuffle puts them.
    weight = torch.as_tensor(value, dtype=torch.float32) if not isinstance(value, Tensor) else value
    if weight.numel() != 1:
        raise ValueError(f"{name} must be one number; got a tensor of shape {tuple(weight.shape)}.")
    return weight.reshape(())
