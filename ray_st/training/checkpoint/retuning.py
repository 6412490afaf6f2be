"""Hyperparameters that change between a checkpoint and the run that resumes from it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

RETUNABLE = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
)
"""Training arguments that may differ from the checkpoint's when a run resumes: they change neither the plan
of steps, nor the weights, nor the optimizer's state."""

Settings = list[dict[str, Any]]


def settings_of(optimizer: torch.optim.Optimizer) -> Settings:
    """The settings of each parameter group (rate, decay, betas, …), as in a new optimizer.

    Args:
        optimizer: A new optimizer, with its scheduler.
    """
    return [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]


def retune(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, settings: Settings) -> None:
    """Applies the current arguments to an optimizer and scheduler restored from a checkpoint.

    The position in the schedule is kept: each group keeps the fraction of its base rate that applies at this
    step. A schedule with a rate of its own (``reduce_lr_on_plateau``) keeps that rate.

    Args:
        optimizer: The optimizer, restored.
        scheduler: Its scheduler, restored.
        settings: The result of :func:`settings_of` from before the optimizer was restored.
    """
    for group, now in zip(optimizer.param_groups, settings, strict=True):
        before, rate = group.get("initial_lr"), group["lr"]
        group.update(now)
        same = not before or before == now["initial_lr"]
        group["lr"] = rate if same else rate * now["initial_lr"] / before
    if all("initial_lr" in now for now in settings):
        scheduler.base_lrs = [now["initial_lr"] for now in settings]
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
