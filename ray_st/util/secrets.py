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
