"""How a parameter changes while a trial runs: moved a little, or drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

Random = np.random.Generator
Mutation = Callable[[Any, Random], Any]
"""Gives a parameter's next value from its present one."""

RESAMPLED = 0.25
"""How often a number is drawn anew, and not moved."""
FACTORS = (1.2, 0.8)
"""By how much a number is moved: itself where the space is logarithmic, else the space's width, up or down."""


def within(distribution: Any) -> Mutation:
    """The change of a parameter inside its space: a choice is drawn anew, a number is moved, or drawn anew now and then.

    Args:
        distribution: What Optuna draws it from.
    """
    if isinstance(distribution, CategoricalDistribution):
        return lambda value, random: distribution.choices[int(random.integers(len(distribution.choices)))]

    def change(value: Any, random: Random) -> Any:
        if random.random() < RESAMPLED:
            return _fitting(distribution, _drawn(distribution, random))
        factor = FACTORS[int(random.integers(len(FACTORS)))]
        if distribution.log:
            return _fitting(distribution, value * factor)
        return _fitting(distribution, value + (factor - 1) * (distribution.high - distribution.low))

    return change


def _drawn(distribution: FloatDistribution | IntDistribution, random: Random) -> float:
    if distribution.log:
        return math.exp(random.uniform(math.log(distribution.low), math.log(distribution.high)))
    return float(random.uniform(distribution.low, distribution.high))


def _fitting(distribution: FloatDistribution | IntDistribution, value: float) -> float | int:
    """The nearest value that the space has."""
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and not (distribution.log and step == 1):
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def as_asked(given: Any, resampled: float, factors: Sequence[float]) -> Mutation:
    """The change that a user of Ray Tune's scheduler asks for, as it means it.

    Args:
        given: Values in order, or a function that draws one from a seed.
        resampled: How often a value is drawn anew.
        factors: What a number is else multiplied with.
    """
    if callable(given):

        def scale(value: Any, random: Random) -> Any:
            if random.random() < resampled:
                drawn = given(int(random.integers(2**31)))
                return drawn.item() if isinstance(drawn, np.generic) else drawn
            return type(value)(value * factors[int(random.integers(len(factors)))])

        return scale
    values = list(given)

    def shift(value: Any, random: Random) -> Any:
        if random.random() < resampled or value not in values:
            return values[int(random.integers(len(values)))]
        place = values.index(value) + (1 if random.random() < 0.5 else -1)
        return values[min(max(place, 0), len(values) - 1)]

    return shift
