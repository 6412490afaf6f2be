"""Search spaces: read from a function or a dict of domains, and checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import BaseTrial

from ray_st.study.any_choices import AnyChoices, as_plain

Space = Callable[[Any], "Mapping[str, Any] | None"]
GivenSpace = Callable[[Any], Any] | Mapping[str, Any] | str | None
Suggest = Callable[[BaseTrial, str, object], Any]

PROBES = 16
"""How many points are drawn to find the names of a space, including conditional ones."""


@dataclass(frozen=True)
class Point:
    """One point of a space.

    Args:
        values: Hyperparameters by name: those that were drawn, and constants that the space returned.
        params: Those that were drawn, as Optuna has them: lists and dicts by their labels.
        distributions: What each was drawn from, as Optuna's JSON.
    """

    values: dict[str, Any]
    params: dict[str, Any]
    distributions: dict[str, str]


def default_hp_space(trial: BaseTrial) -> dict[str, Any]:
    """The default space, which is that of transformers: learning rate, epochs, seed, and batch size.

    Args:
        trial: An Optuna trial.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical(
            "per_device_train_batch_size", [4, 8, 16, 32, 64]
        ),
    }


def as_space(given: GivenSpace, suggest: Suggest | None = None) -> Space:
    """A space as a function of a trial.

    Args:
        given: A function of a trial, which may also return a dict of domains; a dict of domains and
            constants; or None for :func:`default_hp_space`. The name ``"default"`` is replaced before.
        suggest: Draws from a domain: called with a trial, a name and the domain. Returns values that are not
            domains unchanged.

    Raises:
        ValueError: If it is something else.
    """
    if given is None:
        return default_hp_space
    if callable(given):
        return lambda trial: _resolved(given(trial), trial, suggest)
    if isinstance(given, Mapping) and given:
        return lambda trial: _resolved(given, trial, suggest)
    raise ValueError(
        "hp_space must be a function of a trial, as hp_space(trial) with trial.suggest_float(...), a dict of "
        f'Ray Tune domains by name, or "default"; got {given!r}.'
    )


def _resolved(found: object, trial: BaseTrial, suggest: Suggest | None) -> Any:
    if not isinstance(found, Mapping) or suggest is None:
        return found
    return {name: suggest(trial, str(name), value) for name, value in found.items()}


def draw(space: Space, trial: BaseTrial) -> Point:
    """Draws a point.

    Args:
        space: The space.
        trial: An Optuna trial.

    Raises:
        ValueError: If the space returns neither a dict with names as keys nor None, or has a value that
            cannot be recorded.
    """
    drawn = AnyChoices(trial)
    returned = space(drawn)
    if returned is not None and not (
        isinstance(returned, Mapping) and all(isinstance(name, str) for name in returned)
    ):
        raise ValueError(f"hp_space(trial) must return a dict by name, or None; it returned {returned!r}.")
    params, given = dict(trial.params), returned or {}
    values = {
        **{name: value for name, value in drawn.params.items() if name not in given},
        **{name: as_plain(name, value) for name, value in given.items()},
    }
    distributions = {name: distribution_to_json(kind) for name, kind in trial.distributions.items()}
    return Point(values, params, distributions)


def probe(space: Space) -> list[Point]:
    """Draws some points without a study, the same each time, to find what a space holds.

    Args:
        space: The space.

    Raises:
        ValueError: If it cannot be drawn from, or has no parameters.
    """
    study = open_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [draw(space, study.ask()) for _ in range(PROBES)]
    if not any(point.params for point in points):
        raise ValueError(
            "hp_space has no parameters: call trial.suggest_float, suggest_int or suggest_categorical in it, "
            "or give Ray Tune domains."
        )
    return points


def open_study(**options: Any) -> optuna.Study:
    """Opens an Optuna study that prunes nothing, without Optuna's log line.

    Args:
        options: As for ``optuna.create_study``.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(pruner=optuna.pruners.NopPruner(), **options)
    finally:
        optuna.logging.set_verbosity(level)


def describe(points: Sequence[Point]) -> dict[str, Any]:
    """What a space holds, by name, as plain values that can be recorded and compared.

    Args:
        points: From :func:`probe`.
    """
    found: dict[str, Any] = {}
    for point in points:
        for name, text in point.distributions.items():
            found[name] = json.loads(text)
    return {name: found[name] for name in sorted(found)}
