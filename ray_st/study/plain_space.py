"""Search spaces written as plain values, as in a run file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from ray_st.study.space import Space
from ray_st.study.trial_arguments import SpaceError
from ray_st.util.names import did_you_mean
from ray_st.util.value_checks import is_number

_KEYS = ("low", "high", "step", "log", "choices", "when")


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter.

    Args:
        draw: Draws it.
        when: Values, by name, that others must have for it to be drawn; empty for always.
    """

    draw: Callable[[BaseTrial], Any]
    when: Mapping[str, Any]


def plain_space(spec: Mapping[str, Any], where: str, rename: Callable[[str], str] = str) -> Space:
    """A space from plain values.

    ``[a, b]`` is a choice; ``{low: 1.0e-6, high: 1.0e-3, log: true}`` is a range, of integers if both ends
    are, with an optional ``step``; ``{choices: [...], when: {loss.name: CoSENTLoss}}`` is drawn only if
    another parameter, named before it, has that value; anything else is a constant.

    Args:
        spec: Dimensions by name.
        where: Their place in the file, for errors.
        rename: Gives the name under which a dimension is drawn; by default its own.

    Raises:
        SpaceError: If a dimension is invalid.
    """
    dimensions: dict[str, Dimension] = {}
    for name, value in spec.items():
        when = dict(value.get("when") or {}) if isinstance(value, Mapping) else {}
        for other in when:
            if other not in dimensions:
                raise SpaceError(f"{where}.{name}: `when` names {other!r}, not a parameter before it")
        dimensions[name] = Dimension(_draw(rename(name), value, f"{where}.{name}"), when)

    def space(trial: BaseTrial) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        for name, dimension in dimensions.items():
            if all(other in drawn and drawn[other] == wanted for other, wanted in dimension.when.items()):
                drawn[name] = dimension.draw(trial)
        return {rename(name): value for name, value in drawn.items()}

    return space


def _draw(name: str, value: object, where: str) -> Callable[[BaseTrial], Any]:
    if isinstance(value, list):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        return lambda trial: value
    for key in value:
        if key not in _KEYS:
            raise SpaceError(f"{where}: unknown key {key!r}; {did_you_mean(str(key), _KEYS)}")
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        return lambda trial: trial.suggest_categorical(name, choices)
    return _range(name, value, where)


def _range(name: str, value: Mapping[str, Any], where: str) -> Callable[[BaseTrial], Any]:
    low, high = value.get("low"), value.get("high")
    step, log = value.get("step"), bool(value.get("log", False))
    numbers = [end for end in (low, high) if is_number(end)]
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise SpaceError(f"{where}: expected choices, or low and high with low <= high; found {dict(value)}")
    if log and (step is not None or numbers[0] <= 0):
        raise SpaceError(f"{where}: log needs low > 0 and no step; found {dict(value)}")
    least, most = numbers
    if isinstance(least, int) and isinstance(most, int) and isinstance(step or 1, int):
        return lambda trial: trial.suggest_int(name, least, most, step=step or 1, log=log)
    return lambda trial: trial.suggest_float(name, least, most, step=step, log=log)
