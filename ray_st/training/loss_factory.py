"""Creates the losses for a model, and again for each new model from ``model_init``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ray_st.models.stack import Stack
from ray_st.training.strategies.step_module import LossOrLosses, Step

MakeLoss = Callable[..., nn.Module]
GivenLoss = nn.Module | MakeLoss | Mapping[str, nn.Module | MakeLoss]
"""What users pass as ``loss``: a loss, a function that creates it, or one of these for each dataset."""


def make_losses(
    given: GivenLoss | None,
    model: nn.Module,
    default: Callable[[Any], nn.Module],
    anew: bool = False,
    trial: Any = None,
) -> LossOrLosses:
    """The losses of a model.

    Args:
        given: The user's value: a loss, a function that creates it from the model (and ``trial``, if it has
            an argument of this name), or a dict of these; None for the default.
        model: The model.
        default: Creates the loss if none was given.
        anew: Whether the given losses hold another model, to be replaced by this one: they are copied, with
            their own weights as given.
        trial: The trial of a search; None outside of one.

    Raises:
        ValueError: If ``given`` is none of these, or a loss holds another model.
    """
    if given is None:
        return default(model)
    if isinstance(given, Mapping):
        return {name: _make(part, model, anew, trial) for name, part in given.items()}
    return _make(given, model, anew, trial)


def takes_trial(given: GivenLoss | None) -> bool:
    """Whether a loss function takes the trial besides the model, as an argument named ``trial``."""
    if not callable(given) or isinstance(given, (type, nn.Module)):
        return False
    return "trial" in inspect.signature(given).parameters


def _make(given: nn.Module | MakeLoss, model: nn.Module, anew: bool, trial: Any) -> nn.Module:
    if isinstance(given, nn.Module) and anew:
        return _renewed(given, model)
    if not callable(given):
        raise ValueError(f"loss must be a module, a function of the model, or a dict of them; got {given!r}.")
    if isinstance(given, nn.Module):
        made = given
    else:
        made = given(model, trial=trial) if takes_trial(given) else given(model)
    check_model(made, model)
    return made


def _models_in(loss: nn.Module, model: nn.Module) -> dict[str, nn.Module]:
    """The models that a loss and its submodules hold, as modules or attributes, by name."""
    kinds = (type(model), Stack)
    found: dict[str, nn.Module] = {}
    for parent, part in loss.named_modules():
        attributes = {name: value for name, value in vars(part).items() if name != "_modules"}
        for name, value in {**attributes, **part._modules}.items():
            path = f"{parent}.{name}" if parent else name
            for one in _listed(value):
                if isinstance(one, kinds):
                    found[path] = one
    return found


def _listed(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else (value,)


def _in_training(loss: nn.Module, model: nn.Module) -> dict[str, nn.Module]:
    """The models that a loss trains, by the names of the attributes that hold them.

    These are the models that it and its submodules hold as ``model``, as this library's losses do; any others
    are guides or teachers. Without such an attribute, all models that it holds, under any name.
    """
    held = _models_in(loss, model)
    named = {path: one for path, one in held.items() if path.rpartition(".")[2] == "model"}
    return named or held


def _reaches(loss: nn.Module, model: nn.Module) -> bool:
    """Whether a loss holds a model, or some of its weights."""
    weights = set(map(id, model.parameters()))
    held = _models_in(loss, model).values()
    return any(one is model for one in held) or any(id(weight) in weights for weight in loss.parameters())


def check_model(loss: nn.Module, model: nn.Module) -> None:
    """Raises if a loss trains another model than the given one.

    Args:
        loss: The loss.
        model: The trainer's model.

    Raises:
        ValueError: Naming the attribute that holds the other model.
    """
    foreign = {path: one for path, one in _in_training(loss, model).items() if one is not model}
    named = any(path.rpartition(".")[2] == "model" for path in foreign)
    if not foreign or (not named and _reaches(loss, model)):  # a teacher next to the model
        return
    name = type(loss).__name__
    raise ValueError(
        f"{name} was made with another model than the trainer's, which it holds as {_listing(foreign)}, so "
        "that training would not change the trainer's. Make it with the same model, or give a function: "
        f"loss=lambda model: {name}(model, ...)."
    )


def _renewed(loss: nn.Module, model: nn.Module) -> nn.Module:
    """A copy of a loss in which every reference to the trained model is replaced."""
    trained = _in_training(loss, model)
    named = any(path.rpartition(".")[2] == "model" for path in trained)
    if not named and len(set(map(id, trained.values()))) > 1:
        raise ValueError(
            f"{type(loss).__name__} holds several models, as {_listing(trained)}, and model_init makes "
            "another: it is not said which one that replaces. Give a function: loss=lambda model: "
            f"{type(loss).__name__}(model, ...), or hold the model in training as self.model."
        )
    memo: dict[int, Any] = {}
    for old in trained.values():
        memo |= {id(old): model}
        modules, weights = dict(model.named_modules()), dict(model.named_parameters())
        memo |= {id(part): modules[name] for name, part in old.named_modules() if name in modules}
        memo |= {id(part): weights[name] for name, part in old.named_parameters() if name in weights}
    return copy.deepcopy(loss, memo)


def _listing(paths: Iterable[str]) -> str:
    return " and ".join(repr(path) for path in sorted(paths))


def check_optimizer(
    optimizer: Optimizer | None,
    model: nn.Module,
    loss: LossOrLosses,
    rates: Mapping[str, float] | None = None,
) -> None:
    """Raises if an optimizer would train nothing, or not follow the arguments.

    Args:
        optimizer: The user's optimizer, or None.
        model: The trainer's model.
        loss: Its losses.
        rates: ``learning_rate_mapping``.

    Raises:
        ValueError: If it has none of their parameters, or learning rates are given that it would not use.
    """
    if optimizer is None:
        return
    if rates:
        raise ValueError(
            "learning_rate_mapping has no effect on an optimizer of your own: give its groups their rates, "
            "or leave optimizers out."
        )
    ours = {id(weight) for weight in Step(model, loss).parameters()}
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not any(id(weight) in ours for weight in held):
        raise ValueError(
            f"optimizers: {type(optimizer).__name__} holds {len(held)} parameters, none of them the model's "
            "or the loss's. Make it from the parameters of the model that the trainer is given."
        )
