"""Leaving out of records what nobody should read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"(^|_)(token|secret|password|passwd|api_?key|access_?key|credentials?|authorization)$", re.I
)


def placeholder(name: str) -> str:
    """What stands in place of a secret, such as ``"<HUB_TOKEN>"``.

    Args:
        name: The secret's name.
    """
    return f"<{name.upper()}>"


def without_secrets(value: Any, name: str = "") -> Any:
    """A copy in which texts whose names say that they are secret are replaced by placeholders.

    Args:
        value: A value; mappings, lists and tuples are searched.
        name: Its name.
    """
    if isinstance(value, Mapping):
        secret = _SECRET.search(name)  # then so is all that it holds
        return {key: without_secrets(inner, name if secret else str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    return placeholder(name) if isinstance(value, str) and value and _SECRET.search(name) else value


def with_secrets(value: Any, current: Any, name: str = "") -> Any:
    """A copy of what :func:`without_secrets` made, with the secrets that a living value of the same form has.

    Args:
        value: The copy with placeholders.
        current: The living value.
        name: Its name.
    """
    if isinstance(value, Mapping):
        known = current if isinstance(current, Mapping) else {}
        secret = _SECRET.search(name)
        return {
            key: with_secrets(inner, known.get(key), name if secret else str(key))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        rows = (
            current
            if isinstance(current, list | tuple) and len(current) == len(value)
            else [None] * len(value)
        )
        return [with_secrets(inner, row, name) for inner, row in zip(value, rows, strict=True)]
    hidden = isinstance(current, str) and _SECRET.search(name) and value == placeholder(name)
    return current if hidden else value
