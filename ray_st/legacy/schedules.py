"""Optimizers and learning rate schedules under the names of older scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ray_st.models.fit_methods import FitOptions

_WITHOUT_DECAY = ("bias", "LayerNorm.bias", "LayerNorm.weight")

# Called as schedule(optimizer, warmup steps, all steps).
SCHEDULES: Mapping[str, Callable[[Optimizer, int, int], LambdaLR]] = {
    "constantlr": lambda optimizer, warmup, steps: transformers.get_constant_schedule(optimizer),
    "warmupconstant": lambda optimizer, warmup, steps: transformers.get_constant_schedule_with_warmup(
        optimizer, warmup
    ),
    "warmuplinear": transformers.get_linear_schedule_with_warmup,
    "warmupcosine": transformers.get_cosine_schedule_with_warmup,
    "warmupcosinewithhardrestarts": transformers.get_cosine_with_hard_restarts_schedule_with_warmup,
}
"""Learning rate schedules by their lower-case name."""


def check_scheduler(name: str) -> None:
    """Checks the name of a learning rate schedule.

    Raises:
        ValueError: If it is unknown; lists the known ones.
    """
    if name.lower() not in SCHEDULES:
        raise ValueError(f"scheduler must be one of {list(SCHEDULES)}, in any case; got {name!r}.")


def make_scheduler(optimizer: Optimizer, name: str, warmup_steps: int, steps: int) -> LambdaLR:
    """A learning rate schedule.

    Args:
        optimizer: The optimizer whose learning rate it sets.
        name: One of :data:`SCHEDULES`, in any case.
        warmup_steps: Steps over which the rate rises from 0.
        steps: Total steps, at the end of which a decaying rate reaches 0.

    Raises:
        ValueError: If there is no schedule of this name.
    """
    check_scheduler(name)
    return SCHEDULES[name.lower()](optimizer, warmup_steps, steps)


def make_optimizer(module: nn.Module, options: FitOptions) -> Optimizer:
    """An optimizer over all parameters of a module, with weight decay except for biases and layer norms.

    Args:
        module: A loss with its model.
        options: Class and arguments of the optimizer, and the decay.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        groups[not any(part in name for part in _WITHOUT_DECAY)].append(parameter)
    parameters: list[dict[str, Any]] = [
        {"params": group, "weight_decay": options.weight_decay if decays else 0.0}
        for decays, group in groups.items()
    ]
    return options.optimizer_class(parameters, **options.optimizer_params)
