"""Resolves names: suggestions for unknown ones, and arguments that have two names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None if no name is close.

    Args:
        name: The unknown name.
        known: The known names.
    """
    lower = {other.lower(): other for other in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name.

    Args:
        name: The unknown name.
        known: The known names.

    Returns:
        ``"did you mean 'nearest'?"``, or the list of all known names if none is close.
    """
    names = sorted(known)
    near = closest(name, names)
    return f"did you mean {near!r}?" if near is not None else f"known: {', '.join(names) or 'none'}"


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """All known names, starting with those that were probably meant.

    Args:
        name: The unknown name; empty for alphabetical order.
        known: The known names.
    """
    likeness = difflib.SequenceMatcher(b=name.lower())

    def distance(other: str) -> float:
        likeness.set_seq1(other.lower())
        return -likeness.ratio() if name else 0.0

    return sorted(sorted(known), key=distance)


def either(name: str, value: T | None, later: str, other: T | None) -> T | None:
    """The value of an argument that has two names, of which a caller may use one.

    Args:
        name: The older name.
        value: The value given under it, or None.
        later: The newer name.
        other: The value given under that name, or None.

    Raises:
        ValueError: If both were given.
    """
    if value is not None and other is not None:
        raise ValueError(f"{later} is another name of {name}: give only one of them.")
    return value if other is None else other
