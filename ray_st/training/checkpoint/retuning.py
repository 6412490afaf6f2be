"""Hyperparameters that change between a checkpoint and the run that goes on from it."""

from __future__ import annotations

from typing import Any

RETUNABLE = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
)
"""Training arguments that a run may go on with after a checkpoint that was made with others: they neither
change the plan of steps, nor the weights, nor what the optimizer remembers of them."""

Settings = list[dict[str, Any]]


def settings_of(optimizer: Any) -> Settings:
    """What the arguments say of each group of weights: rate, decay, betas, …, as a new optimizer has it.

    Args:
        optimizer: A new optimizer, with its scheduler.
    """
    return [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]


def retune(optimizer: Any, scheduler: Any, settings: Settings) -> None:
    """Applies the current arguments to a restored optimizer and scheduler, which hold the checkpoint's.

    The rate keeps its place in the schedule: the share of its own rate that each group has at this step
    stays. A schedule that has a rate of its own (``reduce_lr_on_plateau``) keeps it.

    Args:
        optimizer: The optimizer, restored.
        scheduler: Its scheduler, restored.
        settings: From :func:`settings_of`, before it was restored.
    """
    for group, now in zip(optimizer.param_groups, settings, strict=True):
        before, rate = group.get("initial_lr"), group["lr"]
        group.update(now)
        same = not before or before == now["initial_lr"]
        group["lr"] = rate if same else rate * now["initial_lr"] / before
    if all("initial_lr" in now for now in settings):
        scheduler.base_lrs = [now["initial_lr"] for now in settings]
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
