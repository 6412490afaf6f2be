"""Choices of any kind JSON can hold: converted when they are suggested, so that a search can record them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import numpy as np
from optuna.trial import BaseTrial

from ray_st.study.trial_arguments import SpaceError

T = TypeVar("T")
Label: TypeAlias = bool | int | float | str | None
Plain: TypeAlias = Label | list[Any] | dict[str, Any]
"""What JSON holds."""


def as_plain(name: str, value: object) -> Plain:
    """A hyperparameter's value as JSON returns it: numpy's as plain, paths as strings, tuples as lists.

    Args:
        name: The hyperparameter, for errors.
        value: The value.

    Raises:
        SpaceError: If JSON has no equivalent.
    """
    if isinstance(value, Enum):
        return as_plain(name, value.value)
    if isinstance(value, np.generic | np.ndarray):
        return as_plain(name, value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [as_plain(name, part) for part in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: as_plain(name, part) for key, part in value.items()}
    raise SpaceError(
        f"hp_space: {name!r} is {value!r}; a parameter is a number, a string, a bool, None, or a list or "
        "dict of these. Draw a name, and create what it stands for in model_init."
    )


def label(plain: Plain) -> Label:
    """The label of a choice in Optuna, which compares choices, sorts them and uses them as keys.

    Args:
        plain: From :func:`as_plain`.
    """
    if isinstance(plain, list | dict):
        return json.dumps(plain, sort_keys=True)
    return plain


def check_distinct(name: str, plain: Sequence[Plain], labels: Sequence[Label]) -> None:
    """Checks that Optuna can tell choices apart, which compares 1 and True as equal, as Python does.

    The same choice twice is allowed: it is drawn twice as often.

    Args:
        name: The hyperparameter, for errors.
        plain: The choices as plain values.
        labels: Their labels.

    Raises:
        SpaceError: If two that differ have equal labels.
    """
    for place, (value, text) in enumerate(zip(plain, labels, strict=True)):
        first = plain[labels.index(text)]
        if isinstance(first, bool | list | dict) != isinstance(value, bool | list | dict):
            raise SpaceError(
                f"hp_space: {name!r} has the choices {first!r} and {value!r} (number {place}), which Optuna "
                "takes for the same. Draw names, such as 'one' and 'yes', and map them to values."
            )


class AnyChoices:
    """An Optuna trial whose choices may also be lists, tuples, dicts, numpy scalars and paths.

    Args:
        trial: The trial.

    Attributes:
        chosen: The plain value of each choice so far, by name.
    """

    def __init__(self, trial: BaseTrial) -> None:
        self._trial = trial
        self.chosen: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[T]) -> T:
        """Suggests one of the choices, and returns it unchanged.

        Args:
            name: The hyperparameter.
            choices: The values.

        Raises:
            SpaceError: If one of them cannot be recorded, or two cannot be told apart.
        """
        plain = [as_plain(name, choice) for choice in choices]
        labels = [label(value) for value in plain]
        check_distinct(name, plain, labels)
        place = labels.index(self._trial.suggest_categorical(name, labels))
        self.chosen[name] = plain[place]
        return choices[place]

    @property
    def params(self) -> dict[str, Any]:
        """What was suggested so far, by name."""
        return {**self._trial.params, **self.chosen}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)
