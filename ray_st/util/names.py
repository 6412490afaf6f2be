"""Finding what somebody meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name.

    Args:
        name: What was found.
        known: What there is.

    Returns:
        ``"did you mean 'nearest'?"``, or the list of all known names when none is near.
    """
    names = sorted(known)
    lower = {other.lower(): other for other in reversed(names)}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[near[0]]!r}?" if near else f"known: {', '.join(names) or 'none'}"
