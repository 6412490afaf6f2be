"""A trainer's queries about its optimizer, which exists only where training runs."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer


def learning_rates(optimizer: Optimizer | None) -> list[float]:
    """The learning rate of each parameter group.

    Raises:
        ValueError: If there is no optimizer in this process.
    """
    return [group["lr"] for group in _groups(optimizer)]


def group_of(optimizer: Optimizer | None, model: nn.Module, param: str | nn.Parameter | None) -> Any:
    """A parameter's group; see :meth:`ray_st.SentenceTransformerTrainer.get_optimizer_group`."""
    groups = _groups(optimizer)
    if param is None:
        return [group["params"] for group in groups]
    wanted = dict(model.named_parameters()).get(param) if isinstance(param, str) else param
    for group in groups:
        if any(weight is wanted for weight in group["params"]):
            return group
    shown = repr(param) if isinstance(param, str) else "the given parameter"
    raise ValueError(f"{shown} is in no group of the optimizer.")


def _groups(optimizer: Optimizer | None) -> list[dict[str, Any]]:
    if optimizer is None:
        raise ValueError(
            "There is no optimizer here: it is made where training runs. Ask in a callback, or in a method "
            "that a subclass overrides."
        )
    return optimizer.param_groups
