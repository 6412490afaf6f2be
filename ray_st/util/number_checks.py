"""Checks for numbers; ``True`` and ``False`` do not count, although Python treats them as 1 and 0."""

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
