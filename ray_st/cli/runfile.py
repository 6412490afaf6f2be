"""A run as one value: what a run file says, checked key by key before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ray_st.cli.checks import RunFileError, at, build, check_keys, check_mapping
from ray_st.cli.yaml_text import YamlError, load_yaml
from ray_st.data.table_spec import TableSpec
from ray_st.util.names import closest, did_you_mean


@dataclass(frozen=True)
class ModelSpec:
    """The model to start from.

    Args:
        path: A model folder, a name on the Hub, or ``package://NAME/FOLDER`` for a folder in an installed package.
        max_seq_length: Tokens of a text that the model reads; by default what the folder says.
        truncate_dim: Dimensions of an embedding that are kept; by default all.
        similarity_fn_name: ``cosine``, ``dot``, ``euclidean`` or ``manhattan``.
        prompts: Texts put before others, by name.
        default_prompt_name: The prompt used when none is named.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code that comes with a Hub model may run.
        local_files_only: Whether only what the Hub's cache holds is used.
    """

    path: str
    max_seq_length: int | None = None
    truncate_dim: int | None = None
    similarity_fn_name: str | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False


@dataclass(frozen=True)
class DataSpec:
    """The rows to learn from, and rows whose loss is watched: a table each, or several by name."""

    train: TableSpec | dict[str, TableSpec]
    eval: TableSpec | dict[str, TableSpec] | None = None


@dataclass(frozen=True)
class LossSpec:
    """A loss by its name in ``ray_st.losses``, and its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluatorSpec:
    """An evaluator by its name in ``ray_st.evaluation``, the rows it needs, and its options.

    The columns of `data` are taken in their order, as a loss takes them.
    """

    type: str
    data: TableSpec
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFile:
    """Everything that a run file says.

    Args:
        source: Name of the file, for errors.
        model: The model to start from; None in a file that only lists evaluators.
        data: Rows; None likewise.
        loss: The loss, or one for each of several tables by name.
        args: Training arguments by name.
        evaluators: What to measure before and after.
        scaling: Arguments of Ray Train's ``ScalingConfig``.
        run: Arguments of Ray Train's ``RunConfig`` that a file can hold.
    """

    source: str
    model: ModelSpec | None
    data: DataSpec | None
    loss: LossSpec | dict[str, LossSpec]
    args: dict[str, Any]
    evaluators: tuple[EvaluatorSpec, ...]
    scaling: dict[str, Any]
    run: dict[str, Any]


SECTIONS = ("model", "data", "loss", "args", "evaluators", "scaling", "run")
"""The keys of a run file."""


def read_run(path: str, overrides: Sequence[str] = ()) -> RunFile:
    """Read a run file.

    Args:
        path: The YAML file.
        overrides: ``dotted.key=value`` each, the value written as in YAML; they go over what the file says.

    Returns:
        The run, with known keys and values of the right kinds. Names of losses, evaluators and arguments are
        checked where they are looked up.

    Raises:
        RunFileError: If the file cannot be read, is not YAML, or has an unknown key or a value of another kind.
    """
    raw = _expand(check_mapping(_load(path), path))
    for override in overrides:
        raw = _expand(_override(raw, override))
    check_keys(raw, SECTIONS, path)
    data = _data(raw["data"], at(path, "data")) if "data" in raw else None
    return RunFile(
        source=path,
        model=build(ModelSpec, raw["model"], at(path, "model")) if "model" in raw else None,
        data=data,
        loss=_loss_or_losses(raw.get("loss", {"name": "CoSENTLoss"}), data, at(path, "loss")),
        args=check_mapping(raw.get("args", {}), at(path, "args")),
        evaluators=_evaluators(raw.get("evaluators", []), at(path, "evaluators")),
        scaling=check_mapping(raw.get("scaling", {}), at(path, "scaling")),
        run=check_mapping(raw.get("run", {}), at(path, "run")),
    )


def _load(path: str) -> Any:
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (YamlError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: {error}") from error


def _expand(raw: dict[str, Any]) -> dict[str, Any]:
    """Write short forms out: a model, a loss or a table that is only a name; sections left empty."""
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


def _expand_evaluator(value: Any) -> Any:
    return {**value, "data": _table(value["data"])} if isinstance(value, dict) and "data" in value else value


def _table(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _tables(value: Any) -> Any:
    """A table, or tables by name, written out."""
    if not _is_named(value):
        return _table(value)
    return {name: _table(part) for name, part in value.items() if part is not None}


def _is_named(value: Any) -> bool:
    """Whether something is tables by name: it has none of a table's keys, nor one that is meant for one of them."""
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


def _put(holder: Any, keys: Sequence[str], value: Any, override: str) -> Any:
    """A copy of `holder` with the value at the end of a path of keys; numbers are places in a list."""
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


def _data(value: Any, where: str) -> DataSpec:
    given = check_mapping(value, where)
    check_keys(given, ("train", "eval"), where)
    if "train" not in given:
        raise RunFileError(f"{at(where, 'train')}: missing")
    return DataSpec(**{key: _table_or_tables(part, at(where, key)) for key, part in given.items()})


def _table_or_tables(value: Any, where: str) -> TableSpec | dict[str, TableSpec]:
    if value == {}:
        raise RunFileError(f"{where}: names no table")
    if not _is_named(value):
        return build(TableSpec, value, where)
    return {
        name: build(TableSpec, part, at(where, name)) for name, part in check_mapping(value, where).items()
    }


def _loss_or_losses(value: Any, data: DataSpec | None, where: str) -> LossSpec | dict[str, LossSpec]:
    """One loss; or, where data are several tables, one for each of them by name."""
    several: dict[str, TableSpec] = {}
    for tables in (data.train, data.eval) if data else ():
        several |= tables if isinstance(tables, dict) else {}
    if not several or not isinstance(value, dict) or "name" in value:
        return _loss(value, where)
    return _losses(check_mapping(value, where), several, where)


def _losses(given: Mapping[str, Any], tables: Mapping[str, Any], where: str) -> dict[str, LossSpec]:
    for name in given:
        if name not in tables:
            raise RunFileError(
                f"{at(where, name)}: neither a loss's `name` nor a table of `data`; {did_you_mean(name, tables)}"
            )
    lacking = next((name for name in tables if name not in given), None)
    if lacking is not None:
        raise RunFileError(f"{at(where, lacking)}: missing; each table of `data` needs a loss")
    return {name: _loss(part, at(where, name)) for name, part in given.items()}


def _loss(value: Any, where: str) -> LossSpec:
    options = dict(check_mapping(value, where))
    return LossSpec(_word(options, "name", where), options)


def _evaluators(value: Any, where: str) -> tuple[EvaluatorSpec, ...]:
    if not isinstance(value, list):
        raise RunFileError(f"{where}: expected a list of evaluators, found {value!r}")
    return tuple(_evaluator(part, at(where, place)) for place, part in enumerate(value))


def _evaluator(value: Any, where: str) -> EvaluatorSpec:
    options = dict(check_mapping(value, where))
    kind = _word(options, "type", where)
    if "data" not in options:
        raise RunFileError(f"{at(where, 'data')}: missing; the rows that {kind} needs")
    table = build(TableSpec, options.pop("data"), at(where, "data"))
    return EvaluatorSpec(kind, table, options)


def _word(options: dict[str, Any], key: str, where: str) -> str:
    """Take a name out of a mapping."""
    if not isinstance(options.get(key), str):
        raise RunFileError(f"{at(where, key)}: expected a name, found {options.get(key)!r}")
    return str(options.pop(key))
