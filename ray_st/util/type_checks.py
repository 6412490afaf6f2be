"""Whether a value matches an annotation, and type names for errors: the checker of run files and arguments.

pydantic in strict mode was tried instead. A run file writes enumerations and paths as text and tuples as
lists, which only pydantic's JSON mode accepts; arguments are Python values, such as NumPy's numbers and paths
in place of text, which neither mode accepts. Error messages would still have to be worded here, and importing
pydantic adds a quarter of a second to each start of the command line.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias, Union, get_args, get_origin

Hint: TypeAlias = object
"""A resolved annotation: a class, a union, a generic."""

PYTHON_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "None",
}
"""Names of plain types for values in a script."""

YAML_WORDS = {**PYTHON_WORDS, bool: "true or false", types.NoneType: "null"}
"""Names of plain types for values in a file."""


def options_of(hint: Hint) -> tuple[Hint, ...]:
    """The alternatives of an annotation: the members of a union, or the annotation itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def fits(value: object, hint: Hint) -> bool:
    """Whether a value matches an annotation.

    Enumerations and paths may be given as text, tuples as lists; whole numbers match float. Annotations that
    are not classes are not checked; a class that no file can express rejects only plain values.

    Args:
        value: The given value.
        hint: The annotation.
    """
    return any(_fits(value, option) for option in options_of(hint))


def _fits(value: object, hint: Hint) -> bool:
    plain = get_origin(hint) or hint
    if hint is Any or not isinstance(plain, type):
        return True
    if isinstance(value, bool):
        return plain is bool
    if plain in _PLAIN:
        return isinstance(value, _PLAIN[plain])
    if issubclass(plain, Enum | Path):
        return isinstance(value, str)
    if issubclass(plain, list | tuple):
        return isinstance(value, list) and _all_fit(value, get_args(hint))
    if issubclass(plain, dict):
        return isinstance(value, dict) and _all_fit(list(value.values()), get_args(hint)[1:])
    return not isinstance(value, str | int | float | None)


_PLAIN: dict[type, Any] = {
    int: Integral,
    float: Real,
    str: (str, os.PathLike),
    bool: bool,
    types.NoneType: types.NoneType,
}


def _all_fit(values: list[Any], hints: tuple[Hint, ...]) -> bool:
    return len(hints) != 1 or all(fits(value, hints[0]) for value in values)


def type_name(hint: Hint, words: Mapping[type, str]) -> str:
    """An annotation in words.

    Args:
        hint: The annotation.
        words: Names of plain types: :data:`PYTHON_WORDS` or :data:`YAML_WORDS`.
    """
    return " or ".join(dict.fromkeys(_name(option, words) for option in options_of(hint)))


def _name(option: Hint, words: Mapping[type, str]) -> str:
    plain = get_origin(option) or option
    if not isinstance(plain, type):
        return str(plain)
    if issubclass(plain, Enum):
        return "one of " + ", ".join(str(member.value) for member in plain)
    if issubclass(plain, list | tuple):
        return "a list"
    if issubclass(plain, dict):
        return "keys with values"
    return words.get(plain, plain.__name__)
