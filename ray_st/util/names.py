"""What somebody means by a name: one that is not known, or another one of the same thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a name is probably meant for, or None when none is near.

    Args:
        name: What was found.
        known: What there is.
    """
    lower = {other.lower(): other for other in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name.

    Args:
        name: What was found.
        known: What there is.

    Returns:
        ``"did you mean 'nearest'?"``, or the list of all known names when none is near.
    """
    names = sorted(known)
    near = closest(name, names)
    return f"did you mean {near!r}?" if near is not None else f"known: {', '.join(names) or 'none'}"


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """All known names, those that a name is probably meant for first.

    Args:
        name: What was found; empty for the alphabetical order.
        known: What there is.
    """
    likeness = difflib.SequenceMatcher(b=name.lower())

    def distance(other: str) -> float:
        likeness.set_seq1(other.lower())
        return -likeness.ratio() if name else 0.0

    return sorted(sorted(known), key=distance)


def either(name: str, value: T | None, later: str, other: T | None) -> T | None:
    """An argument that has two names, of which a caller uses one.

    Args:
        name: The name that it had first.
        value: What was given under it, or None.
        later: The name that it has in later releases.
        other: What was given under that one, or None.

    Raises:
        ValueError: If both were given.
    """
    if value is not None and other is not None:
        raise ValueError(f"{later} is another name of {name}: give only one of them.")
    return value if other is None else other
