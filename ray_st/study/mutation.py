"""How a hyperparameter changes while a trial runs: moved a little, or drawn again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

T = TypeVar("T")
Number = FloatDistribution | IntDistribution
Random = np.random.Generator
Mutation = Callable[[Any, Random], Any]
"""Gives a hyperparameter's next value from the current one."""

RESAMPLED = 0.25
"""How often a number is drawn again instead of moved."""
FACTORS = (1.2, 0.8)
"""By how much a number is moved: a factor in a logarithmic space, otherwise a share of the space's width."""


def within(distribution: BaseDistribution) -> Mutation:
    """The change of a hyperparameter inside its space: a choice is drawn again, a number is usually moved.

    Args:
        distribution: What Optuna draws it from.
    """
    if isinstance(distribution, CategoricalDistribution):
        return lambda value, random: _one_of(distribution.choices, random)
    assert isinstance(distribution, Number)

    def change(value: float, random: Random) -> float:
        if random.random() < RESAMPLED:
            return _fitting(distribution, _drawn(distribution, random))
        factor = _one_of(FACTORS, random)
        if distribution.log:
            return _fitting(distribution, value * factor)
        return _fitting(distribution, value + (factor - 1) * (distribution.high - distribution.low))

    return change


def _one_of(values: Sequence[T], random: Random) -> T:
    return values[int(random.integers(len(values)))]


def _drawn(distribution: Number, random: Random) -> float:
    if distribution.log:
        return math.exp(random.uniform(math.log(distribution.low), math.log(distribution.high)))
    return float(random.uniform(distribution.low, distribution.high))


def _fitting(distribution: Number, value: float) -> float:
    """The nearest value in the space."""
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and not (distribution.log and step == 1):
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def as_in_ray_tune(
    given: Sequence[Any] | Callable[[int], Any], resampled: float, factors: Sequence[float]
) -> Mutation:
    """The change that a user of Ray Tune's scheduler asks for, as Ray Tune defines it.

    Args:
        given: Values in order, or a function that draws one from a seed.
        resampled: How often a value is drawn again.
        factors: What a number is multiplied by otherwise.
    """
    if callable(given):
        draw = given

        def scale(value: float, random: Random) -> Any:
            if random.random() < resampled:
                drawn = draw(int(random.integers(2**31)))
                return drawn.item() if isinstance(drawn, np.generic) else drawn
            return type(value)(value * _one_of(factors, random))

        return scale
    values = list(given)

    def shift(value: object, random: Random) -> Any:
        if random.random() < resampled or value not in values:
            return _one_of(values, random)
        place = values.index(value) + (1 if random.random() < 0.5 else -1)
        return values[min(max(place, 0), len(values) - 1)]

    return shift
