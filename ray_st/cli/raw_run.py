"""A run file as plain values: reading it, expanding short forms, replacing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard

from ray_st.cli.run_checks import RunFileError, check_mapping
from ray_st.cli.yaml_text import YamlError, load_yaml
from ray_st.data.table_spec import TableSpec
from ray_st.util.names import closest


def load_run(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a run file as plain values and expands short forms.

    Args:
        path: The YAML file.
        overrides: ``dotted.key=value`` each, the value written as in YAML; they override the file.

    Raises:
        RunFileError: If the file cannot be read or is not YAML.
    """
    raw = _expand(check_mapping(_load(path), path))
    for override in overrides:
        raw = _expand(_override(raw, override))
    return raw


def with_value(raw: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """A copy of a run's plain values with one of them replaced.

    Args:
        raw: The values.
        key: The dotted key.
        value: The value.

    Raises:
        RunFileError: If part of the key leads into a value without keys.
    """
    return _expand(_put(_expand(dict(raw)), key.split("."), value, key))


def _load(path: str) -> Any:
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (YamlError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: {error}") from error


def _expand(raw: dict[str, Any]) -> dict[str, Any]:
    """Expands short forms (a model, loss or table given only by name) and drops empty sections."""
    full = {key: value for key, value in raw.items() if value is not None}
    for key, name in (("model", "path"), ("loss", "name")):
        if isinstance(full.get(key), str):
            full[key] = {name: full[key]}
    if isinstance(full.get("loss"), dict) and "name" not in full["loss"]:
        full["loss"] = {
            key: {"name": value} if isinstance(value, str) else value
            for key, value in full["loss"].items()
            if value is not None
        }
    if isinstance(full.get("data"), dict):
        full["data"] = {key: _tables(value) for key, value in full["data"].items() if value is not None}
    listed = full.get("evaluators")
    if isinstance(listed, dict | list):
        full["evaluators"] = [
            _expand_evaluator(part) for part in (listed if isinstance(listed, list) else [listed])
        ]
    return full


def _expand_evaluator(value: object) -> Any:
    return {**value, "data": _table(value["data"])} if isinstance(value, dict) and "data" in value else value


def _table(value: object) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _tables(value: object) -> Any:
    """Expands a table, or tables by name."""
    if not is_named(value):
        return _table(value)
    return {name: _table(part) for name, part in value.items() if part is not None}


def is_named(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is several tables by name: it has no key of a table, nor a likely misspelling of one.

    Args:
        value: The part of a run file that describes one table or several.
    """
    if not isinstance(value, dict) or not value or set(value) & _TABLE_KEYS:
        return False
    return not any(
        isinstance(key, str) and not isinstance(part, dict) and closest(key, _TABLE_KEYS)
        for key, part in value.items()
    )


_TABLE_KEYS = frozenset(part.name for part in fields(TableSpec))


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RunFileError(f"{override!r}: an override is written key=value, such as args.learning_rate=1e-5")
    try:
        value = load_yaml(text)
    except YamlError as error:
        raise RunFileError(f"{override!r}: {error}") from error
    return _put(raw, key.split("."), value, override)


def _put(holder: object, keys: Sequence[str], value: object, override: str) -> Any:
    """A copy of `holder` with the value set at a path of keys; numbers index lists."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(holder, list):
        if not key.isdigit() or int(key) >= len(holder):
            raise RunFileError(
                f"{override!r}: {key!r} is no place in a list of {len(holder)}; the first is 0"
            )
        place = int(key)
        return [*holder[:place], _put(holder[place], rest, value, override), *holder[place + 1 :]]
    if holder is not None and not isinstance(holder, dict):
        raise RunFileError(f"{override!r}: {key!r} cannot be set inside {holder!r}, which has no keys")
    return {**(holder or {}), key: _put((holder or {}).get(key), rest, value, override)}
