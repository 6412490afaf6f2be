"""Rejects arguments of the wrong type by name, where transformers would fail much later or not at all."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ray_st.util.secrets import without_secrets

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "None",
}
_LEFT_ALONE = {"fsdp"}  # documented with more types than its annotation has


def check_types(args: Any, described: type) -> None:
    """Rejects values that do not have the annotated type, for arguments that are numbers, texts or booleans.

    Args:
        args: The arguments.
        described: Their class, with the annotations.

    Raises:
        ValueError: At the first argument of the wrong type.
    """
    for name, kinds in _plain_types(described).items():
        value = getattr(args, name)
        if not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(word for kind, word in _WORDS.items() if kind in kinds)
            shown = without_secrets({name: repr(value)})[name]
            raise ValueError(f"{name} must be {wanted}; got {shown} ({type(value).__name__}).")


@cache
def _plain_types(described: type) -> dict[str, frozenset[type]]:
    """The types of each argument that has only plain types."""
    hints, found = get_type_hints(described), {}
    for name in {field.name for field in fields(described)} - _LEFT_ALONE:
        hint = hints[name]
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if all(option in _WORDS for option in options):
            found[name] = frozenset(options)
    return found


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is str:
        return isinstance(value, str | os.PathLike)
    if kind is int:
        return isinstance(value, Integral)
    return isinstance(value, Real if kind is float else kind)
