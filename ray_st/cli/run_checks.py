"""Checks of keys and types, with errors that name the place in the run file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

from ray_st.util.names import did_you_mean
from ray_st.util.secrets import without_secrets
from ray_st.util.type_checks import YAML_WORDS, Hint, fits, type_name

T = TypeVar("T")


class RunFileError(ValueError):
    """An invalid value in a run file, or in an override."""


def at(where: str, key: str | int) -> str:
    """The location of a key within a location: ``run.yaml`` and ``args`` give ``run.yaml: args``."""
    return f"{where}.{key}" if ": " in where else f"{where}: {key}"


@contextmanager
def located(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of these kinds into a :class:`RunFileError` that names the location.

    Args:
        where: The location.
        *kinds: The kinds of errors.

    Raises:
        RunFileError: In place of such an error; one that names a location already is raised unchanged.
    """
    try:
        yield
    except RunFileError:
        raise
    except kinds as error:
        raise RunFileError(f"{where}: {error}") from error


def check_mapping(value: object, where: str) -> dict[str, Any]:
    """Checks that a value is a mapping with text keys, and returns it.

    Args:
        value: The value.
        where: What to call its place in an error: file and dotted path.

    Raises:
        RunFileError: If it is not.
    """
    if not isinstance(value, dict):
        raise RunFileError(f"{where}: expected keys with values, found {_shown(value)}")
    odd = next((key for key in value if not isinstance(key, str)), None)
    if odd is not None:
        raise RunFileError(f"{where}: expected a word as key, found {_shown(odd)}")
    return value


def check_keys(value: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Rejects unknown keys, suggesting the closest known one.

    Raises:
        RunFileError: At the first unknown key.
    """
    for key in value:
        if key not in known:
            raise RunFileError(f"{at(where, key)}: unknown key {key!r}; {did_you_mean(key, known)}")


def check_types(value: Mapping[str, Any], hints: Mapping[str, Hint], where: str) -> None:
    """Rejects values that do not have the annotated type.

    Args:
        value: Values by name.
        hints: Annotations by name; values without one are not checked.
        where: What to call the place in an error.

    Raises:
        RunFileError: At the first value of another type.
    """
    for key, part in value.items():
        if key in hints and not fits(part, hints[key]):
            found = _shown(without_secrets(part, key))
            raise RunFileError(
                f"{at(where, key)}: expected {type_name(hints[key], YAML_WORDS)}, found {found}"
            )


def build(cls: type[T], value: object, where: str) -> T:
    """Makes a dataclass from a mapping, checking its keys and the types of its values.

    Args:
        cls: The dataclass.
        value: The mapping.
        where: What to call its place in an error.

    Raises:
        RunFileError: If a key is unknown, a required one is missing, or a value is of another type.
    """
    given = check_mapping(value, where)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    check_keys(given, known, where)
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise RunFileError(f"{at(where, name)}: missing")
    check_types(given, get_type_hints(cls), where)
    return cls(**given)


def _shown(value: object) -> str:
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
