"""Losses with named parts: a loss is a scalar, or a dictionary of scalars that count as their sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TypeAlias

from torch import Tensor

Value: TypeAlias = "Tensor | dict[str, Tensor]"
"""What a loss returns: a scalar, or named scalars whose sum is the loss."""


def total(value: Tensor | Mapping[str, Tensor]) -> Tensor:
    """The loss as one scalar.

    Args:
        value: A scalar, or named scalars.
    """
    if isinstance(value, Tensor):
        return value
    first, *others = value.values()
    return sum(others, first)


def weighted_sum(terms: Iterable[tuple[float, Value]]) -> Value:
    """Sum of losses with weights; parts are summed by name.

    Args:
        terms: Weights and losses, at least one; either all scalars or all with parts of the same names.
    """
    return reduce(add, (scale(value, weight) for weight, value in terms))


def scale(value: Value, weight: float) -> Value:
    """A loss times a weight."""
    if isinstance(value, Tensor):
        return value * weight
    return {name: part * weight for name, part in value.items()}


def add(value: Value, other: Value) -> Value:
    """Two losses added, parts by name; a scalar added to parts becomes a part named ``regularization``."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value + other
    mine, theirs = ({"regularization": v} if isinstance(v, Tensor) else v for v in (value, other))
    shared = mine.keys() & theirs.keys()
    return {**mine, **theirs, **{name: mine[name] + theirs[name] for name in shared}}
