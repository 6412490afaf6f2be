"""Losses for a model, and again for another one where ``model_init`` makes the model anew."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ray_st.training.step import LossOrLosses, Step


def make_losses(given: Any, model: nn.Module, anew: bool = False, trial: Any = None) -> LossOrLosses:
    """The losses of a model.

    Args:
        given: What the user gave: a loss, a function that makes it from the model (and ``trial``, if it has an argument of
            this name), or a dict of these; None for CoSENT.
        model: The model.
        anew: Whether losses that were given hold another model, which this one replaces: copies are made, with what
            they own as it was given.
        trial: The trial of a search; None outside of one.

    Raises:
        ValueError: If it is none of these, or a loss holds another model.
    """
    if given is None:
        from ray_st.losses import CoSENTLoss

        return CoSENTLoss(model)
    if isinstance(given, Mapping):
        return {name: _make(part, model, anew, trial) for name, part in given.items()}
    return _make(given, model, anew, trial)


def takes_trial(given: Any) -> bool:
    """Whether what makes a loss wants the trial besides the model: it has an argument of this name."""
    if not callable(given) or isinstance(given, (type, nn.Module)):
        return False
    return "trial" in inspect.signature(given).parameters


def _make(given: Any, model: nn.Module, anew: bool, trial: Any) -> nn.Module:
    if isinstance(given, nn.Module):
        if anew:
            return _renewed(given, model)
        _check_model(given, model)
        return given
    if callable(given):
        made: nn.Module = given(model, trial=trial) if takes_trial(given) else given(model)
        return made
    raise ValueError(f"loss must be a module, a function of the model, or a dict of them; got {given!r}.")


def _foreign_models(loss: nn.Module, model: nn.Module) -> list[nn.Module]:
    """The models that a loss holds as its own (as ``model``, of the same class) and that are not the given one."""
    held = [getattr(part, "model", None) for part in loss.modules()]
    return list({id(one): one for one in held if isinstance(one, type(model)) and one is not model}.values())


def _check_model(loss: nn.Module, model: nn.Module) -> None:
    if _foreign_models(loss, model):
        name = type(loss).__name__
        raise ValueError(
            f"{name} was made with another model than the trainer's, so that training would not change the trainer's. "
            f"Make it with the same model, or give a function: loss=lambda model: {name}(model, ...)."
        )


def _renewed(loss: nn.Module, model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for old in _foreign_models(loss, model):
        memo |= {id(old): model}
        modules, weights = dict(model.named_modules()), dict(model.named_parameters())
        memo |= {id(part): modules[name] for name, part in old.named_modules() if name in modules}
        memo |= {id(part): weights[name] for name, part in old.named_parameters() if name in weights}
    return copy.deepcopy(loss, memo)


def check_optimizer(optimizer: Any, model: nn.Module, loss: LossOrLosses, rates: Any = None) -> None:
    """Refuses an optimizer that would train nothing, or not as the arguments say.

    Args:
        optimizer: The user's, or None.
        model: The trainer's model.
        loss: Its losses.
        rates: ``learning_rate_mapping``.

    Raises:
        ValueError: If it holds no parameter of them, or rates are given that it would not follow.
    """
    if optimizer is None:
        return
    if rates:
        raise ValueError(
            "learning_rate_mapping has no effect on an optimizer of your own: give its groups their rates, or leave "
            "optimizers out."
        )
    ours = {id(weight) for weight in Step(model, loss).parameters()}
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not any(id(weight) in ours for weight in held):
        raise ValueError(
            f"optimizers: {type(optimizer).__name__} holds {len(held)} parameters, none of them the model's or the loss's. "
            "Make it from the parameters of the model that the trainer is given."
        )
