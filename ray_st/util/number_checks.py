"""What counts as a number: ``True`` and ``False`` do not, although Python takes them for 1 and 0."""

from __future__ import annotations

import math
from numbers import Integral
from typing import TypeGuard


def is_whole(value: object, least: float = -math.inf, numpy: bool = False) -> TypeGuard[int]:
    """Whether a value is a whole number.

    Args:
        value: The value.
        least: The smallest number that counts.
        numpy: Whether numpy's integers count too.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if numpy else int):
        return False
    return int(value) >= least


def is_number(value: object, least: float = -math.inf) -> TypeGuard[float]:
    """Whether a value is a whole number or a float of Python.

    Args:
        value: The value.
        least: The smallest number that counts; a NaN is not refused.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and not value < least
