"""Rejects arguments of the wrong type by name, where transformers would fail much later or not at all."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from ray_st.util.secrets import without_secrets
from ray_st.util.type_checks import PYTHON_WORDS, Hint, fits, options_of, type_name

_LEFT_ALONE = {"fsdp"}  # documented with more types than its annotation has


def check_types(args: Any, described: type) -> None:
    """Rejects values that do not have the annotated type, for arguments that are numbers, texts or booleans.

    Args:
        args: The arguments.
        described: Their class, with the annotations.

    Raises:
        ValueError: At the first argument of the wrong type.
    """
    for name, hint in _plain_hints(described).items():
        value = getattr(args, name)
        if not fits(value, hint):
            shown = without_secrets({name: repr(value)})[name]
            wanted = type_name(hint, PYTHON_WORDS)
            raise ValueError(f"{name} must be {wanted}; got {shown} ({type(value).__name__}).")


@cache
def _plain_hints(described: type) -> dict[str, Hint]:
    """The annotation of each argument that has only plain types."""
    hints = get_type_hints(described)
    names = {field.name for field in fields(described)} - _LEFT_ALONE
    return {name: hints[name] for name in names if set(options_of(hints[name])) <= set(PYTHON_WORDS)}
