"""Parameter groups of an optimizer: weights with and without decay, and their learning rates."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from ray_st.training.strategies.step_module import LossOrLosses, Step
from ray_st.training_args import SentenceTransformerTrainingArguments

_LOSS = "loss."


def weight_names(step: Step, loss: LossOrLosses) -> dict[str, str]:
    """The names under which users know the weights of a step.

    Args:
        step: Model and losses.
        loss: The loss, or one for each dataset.

    Returns:
        For each name in ``step``: ``model.…`` for the model's weights; for a weight that a loss owns, its
        name in the loss, prefixed with the dataset's name and a dot if each dataset has its own loss.
    """
    prefixes = {_LOSS: ""}
    if isinstance(loss, Mapping):
        prefixes = {f"{_LOSS}{number}.": f"{dataset}." for number, dataset in enumerate(loss)}
    names = {}
    for name, _ in step.named_parameters():
        before = next((before for before in prefixes if name.startswith(before)), "")
        names[name] = prefixes.get(before, "") + name.removeprefix(before)
    return names


def param_groups(
    step: Step, loss: LossOrLosses, decaying: Collection[str], weight_decay: float, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Groups the weights of a model and its losses for an optimizer; untrained weights are left out.

    Args:
        step: Model and losses.
        loss: The loss, or one for each dataset.
        decaying: Names in ``step`` of the weights with weight decay; biases and norms have none.
        weight_decay: The weight decay.
        rates: For each regular expression, the learning rate of the weights whose names (see
            :func:`weight_names`) it matches; the last match wins. All others have the optimizer's own rate.

    Returns:
        Non-empty groups with ``params``, ``weight_decay`` and possibly ``lr``: first those with the
        optimizer's own rate, then in the order of ``rates``; for each rate, weights with decay come first.

    Raises:
        ValueError: If an expression matches no trained weight's name.
    """
    names = weight_names(step, loss)
    trained = {names[name]: weight for name, weight in step.named_parameters() if weight.requires_grad}
    with_decay = {names[name] for name in decaying if name in names}
    rate_of: dict[str, str | None] = dict.fromkeys(trained)
    for expression in rates:
        found = [name for name in trained if re.search(expression, name)]
        if not found:
            raise ValueError(
                f"learning_rate_mapping: {expression!r} is found in the name of no weight that is trained. "
                f"Their names are like {', '.join(sorted(trained)[:: max(1, len(trained) // 4)])}."
            )
        rate_of.update(dict.fromkeys(found, expression))
    groups: list[dict[str, Any]] = []
    order: list[str | None] = [None, *rates]
    for pattern in order:
        rate = {} if pattern is None else {"lr": rates[pattern]}
        of_rate = [name for name in trained if rate_of[name] == pattern]
        decayed = [trained[name] for name in of_rate if name in with_decay]
        others = [trained[name] for name in of_rate if name not in with_decay]
        groups.append({"params": decayed, "weight_decay": weight_decay, **rate})
        groups.append({"params": others, "weight_decay": 0.0, **rate})
    return [group for group in groups if group["params"]]


def with_learning_rates(
    step: Step,
    loss: LossOrLosses,
    args: SentenceTransformerTrainingArguments,
    optimizer: tuple[type[Any], dict[str, Any]],
    decaying: Collection[str],
) -> tuple[type[Any], dict[str, Any]]:
    """An optimizer's class and options, with parameter groups according to ``learning_rate_mapping``.

    Args:
        step: Model and losses.
        loss: The loss, or one for each dataset.
        args: Training arguments.
        optimizer: Class and options without groups.
        decaying: Names of the weights that decay.

    Raises:
        ValueError: If the optimizer groups the parameters itself.
    """
    kind, options = optimizer
    takes_groups = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if not takes_groups or {"params", "model", "optimizer_dict"} & options.keys():
        raise ValueError(
            f"optim={str(args.optim)!r} groups the parameters itself, and learning_rate_mapping does too. "
            "Leave one out."
        )
    groups = param_groups(step, loss, decaying, args.weight_decay, args.learning_rate_mapping)
    return kind, {**options, "params": groups}


def learning_rates(optimizer: torch.optim.Optimizer | None) -> list[float]:
    """The learning rate of each parameter group.

    Raises:
        ValueError: If there is no optimizer in this process.
    """
    return [group["lr"] for group in _groups(optimizer)]


def group_of(
    optimizer: torch.optim.Optimizer | None, model: nn.Module, param: str | nn.Parameter | None
) -> Any:
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


def _groups(optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    if optimizer is None:
        raise ValueError(
            "There is no optimizer here: it is made where training runs. Ask in a callback, or in a method "
            "that a subclass overrides."
        )
    return optimizer.param_groups
