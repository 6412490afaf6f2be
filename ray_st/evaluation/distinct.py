"""Distinct texts: repeated ones are encoded once, and get the same embedding to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def distinct(texts: Sequence[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The distinct texts in the order of their first occurrence, the same in every process.

    Args:
        texts: n texts; or other inputs of a model, which all count as distinct if they cannot be hashed.

    Returns:
        The distinct texts, and for each of the n its place among them (n,).
    """
    places: dict[Any, int] = {}
    try:
        numbers = [places.setdefault(text, len(places)) for text in texts]
    except TypeError:  # not hashable
        return list(texts), np.arange(len(texts))
    return list(places), np.asarray(numbers, dtype=np.int64)
