"""Choices of any kind that JSON has: made plain when they are suggested, so that a search can write them down and go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from ray_st.study.trial_arguments import SpaceError

T = TypeVar("T")


def as_plain(name: str, value: Any) -> Any:
    """A parameter's value as JSON gives it back: numpy's numbers as numbers, paths as texts, tuples as lists.

    Args:
        name: The parameter, for errors.
        value: The value.

    Raises:
        SpaceError: If JSON has nothing like it.
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
        f"hp_space: {name!r} is {value!r}; a parameter is a number, a text, true or false, None, or a list or dict of such. "
        "Draw a name, and make what it stands for in model_init."
    )


def label(plain: Any) -> Any:
    """What stands for a choice in Optuna, which compares choices, sorts them and uses them as keys.

    Args:
        plain: From :func:`as_plain`.
    """
    return json.dumps(plain, sort_keys=True) if isinstance(plain, list | dict) else plain


class AnyChoices:
    """An Optuna trial whose choices may also be lists, tuples, dicts, numpy's numbers and paths.

    Args:
        trial: The trial.

    Attributes:
        chosen: The plain value of each choice that was made, by name.
    """

    def __init__(self, trial: Any) -> None:
        self._trial = trial
        self.chosen: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[T]) -> T:
        """Suggests one of some values; returns it as it was given.

        Args:
            name: The parameter.
            choices: The values.

        Raises:
            SpaceError: If one of them cannot be written down.
        """
        plain = [as_plain(name, choice) for choice in choices]
        labels = [label(value) for value in plain]
        place = labels.index(self._trial.suggest_categorical(name, labels))
        self.chosen[name] = plain[place]
        return choices[place]

    @property
    def params(self) -> dict[str, Any]:
        """What was suggested so far, by name."""
        return {**self._trial.params, **self.chosen}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)
