"""What to expect of another seed: a prediction interval from trainings that differ in their seeds only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

LEVEL = 0.9
"""The share of new trainings that are expected within the interval."""

_HALVINGS = 60


def expected_range(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Where the value of one more training, with another seed, is expected.

    The two-sided prediction interval for one further draw from a normal distribution of unknown mean and
    spread: mean ± t · s · √(1 + 1/k), with the quantile t of Student's distribution with k - 1 degrees of
    freedom (Hahn and Meeker, Statistical Intervals, Wiley 1991, chapter 4). Few seeds make it wide, as they
    should: with two, t is 6.3.

    Args:
        values: One for each seed.
        level: The probability that the interval holds the new value.

    Returns:
        Its ends; None for a single value, which says nothing about its spread.
    """
    count = len(values)
    if count < 2:
        return None
    reach = student_quantile(level, count - 1) * stdev(values) * math.sqrt(1 + 1 / count)
    return fmean(values) - reach, fmean(values) + reach


def student_quantile(level: float, freedom: int) -> float:
    """The t for which a variable of Student's distribution lies within ±t with a probability.

    Args:
        level: The probability, between 0 and 1.
        freedom: The degrees of freedom, at least 1.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):  # of the angle, which is bounded where t is not
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The probability of ±√freedom · tan(angle), a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for place in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * place / (place + 1)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
