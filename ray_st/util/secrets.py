"""Removes secrets from records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"(^|_)(token|secret|password|passwd|api_?key|access_?key|credentials?|authorization)$", re.I
)


def placeholder(name: str) -> str:
    """The placeholder for a secret, such as ``"<HUB_TOKEN>"``.

    Args:
        name: The secret's name.
    """
    return f"<{name.upper()}>"


def without_secrets(value: object, name: str = "") -> Any:
    """A copy in which texts whose names mark them as secret are replaced by placeholders.

    Args:
        value: A value; mappings, lists and tuples are searched recursively.
        name: Its name.
    """
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, _name_inside(name, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    return placeholder(name) if isinstance(value, str) and value and _SECRET.search(name) else value


def with_secrets(value: object, current: object, name: str = "") -> Any:
    """A copy of the output of :func:`without_secrets`, with the secrets of a live value of that structure.

    Args:
        value: The copy with placeholders.
        current: The live value.
        name: Its name.
    """
    if isinstance(value, Mapping):
        known = current if isinstance(current, Mapping) else {}
        return {
            key: with_secrets(inner, known.get(key), _name_inside(name, key)) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        rows = current if isinstance(current, list | tuple) else ()
        if len(rows) != len(value):
            rows = [None] * len(value)
        return [with_secrets(inner, row, name) for inner, row in zip(value, rows, strict=True)]
    hidden = isinstance(current, str) and _SECRET.search(name) and value == placeholder(name)
    return current if hidden else value


def _name_inside(name: str, key: object) -> str:
    """The name of a mapping's value: everything inside a secret is secret too."""
    return name if _SECRET.search(name) else str(key)
