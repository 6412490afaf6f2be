"""Checks of plain values: numbers, sizes, texts, and words that several arguments share."""

from __future__ import annotations

import math
from numbers import Integral
from typing import TypeGuard


def is_whole(value: object, least: float = -math.inf, numpy: bool = False) -> TypeGuard[int]:
    """Whether a value is a whole number.

    Args:
        value: The value.
        least: The smallest accepted number.
        numpy: Whether numpy's integers are accepted too.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if numpy else int):
        return False
    return int(value) >= least


def is_number(value: object, least: float = -math.inf) -> TypeGuard[float]:
    """Whether a value is a Python integer or float.

    Args:
        value: The value.
        least: The smallest accepted number; NaN is accepted.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and not value < least


def check_at_least_one(**sizes: int) -> None:
    """Checks that sizes are at least 1.

    Args:
        sizes: The sizes by argument name.

    Raises:
        ValueError: Naming the first that is smaller.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}.")


def lone_surrogate(text: str) -> str | None:
    """The fault of a text that contains half of a surrogate pair; None for all others.

    Args:
        text: Any text; the check is almost free for ASCII.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"character {error.start} is half of a surrogate pair, {text[error.start]!a}, which is not "
            "Unicode; correct the text, or replace such characters with text.encode('utf-8', "
            "'replace').decode()"
        )
    return None


COLLISIONS = ("keep", "mask", "drop")
"""What can happen to rows that share a text with too many others to fit into full batches."""


def check_collisions(collisions: str) -> None:
    """Checks the argument ``collisions``.

    Raises:
        ValueError: If it is none of :data:`COLLISIONS`.
    """
    if collisions not in COLLISIONS:
        raise ValueError(f"collisions must be one of {list(COLLISIONS)}; got {collisions!r}.")
