"""A run as one value: the content of a run file, checked key by key before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ray_st.cli.model_kinds import EMBEDDERS, MODEL_KINDS, ModelKind, check_options
from ray_st.cli.raw_run import is_named, load_run
from ray_st.cli.run_checks import RunFileError, at, build, check_keys, check_mapping
from ray_st.data.table_spec import TableSpec
from ray_st.util.names import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSpec:
    """The initial model.

    Args:
        path: A model folder, a name on the Hub, or ``package://NAME/FOLDER`` for a folder in an installed
            package.
        type: The kind of model: ``SentenceTransformer``, or ``CrossEncoder`` for a reranker.
        max_seq_length: Maximum tokens per text, or per pair of texts; by default as in the folder.
        num_labels: Labels of a reranker; by default as in the folder, or 1.
        truncate_dim: Dimensions to keep of each embedding; by default all.
        similarity_fn_name: ``cosine``, ``dot``, ``euclidean`` or ``manhattan``.
        prompts: Prompts by name, prepended to texts.
        default_prompt_name: Name of the prompt to use by default.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to allow running code that comes with a Hub model.
        local_files_only: Whether to use only the local Hub cache.
        backend: What computes: ``torch``, or an exported file with ``onnx`` or ``openvino``.
        file_name: That file, by default the usual one.
    """

    path: str
    type: str = "SentenceTransformer"
    max_seq_length: int | None = None
    num_labels: int | None = None
    truncate_dim: int | None = None
    similarity_fn_name: str | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False
    backend: str = "torch"
    file_name: str | None = None


@dataclass(frozen=True)
class DataSpec:
    """Training rows, and held-out rows for the evaluation loss: one table each, or several by name."""

    train: TableSpec | dict[str, TableSpec]
    eval: TableSpec | dict[str, TableSpec] | None = None


@dataclass(frozen=True)
class LossSpec:
    """A loss by its name among those of the kind of model, or its import path, and its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluatorSpec:
    """An evaluator by its name in ``ray_st.evaluation`` or its import path, with its rows and options.

    The columns of `data` are passed in their order, as for a loss. Optional for custom evaluators.
    """

    type: str
    data: TableSpec | None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CallbackSpec:
    """A callback by its name in ``transformers`` or its import path, and its options."""

    type: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFile:
    """The content of a run file.

    Args:
        source: Name of the file, for errors.
        model: The initial model; None in a file that only lists evaluators.
        data: The rows; None likewise.
        loss: The loss, or one per table by name.
        args: Training arguments by name.
        evaluators: Evaluators to run before and after training.
        callbacks: Callbacks of the training.
        scaling: Arguments of Ray Train's ``ScalingConfig``.
        run: Arguments of Ray Train's ``RunConfig`` that a file can hold.
    """

    source: str
    model: ModelSpec | None
    data: DataSpec | None
    loss: LossSpec | dict[str, LossSpec]
    args: dict[str, Any]
    evaluators: tuple[EvaluatorSpec, ...]
    callbacks: tuple[CallbackSpec, ...]
    scaling: dict[str, Any]
    run: dict[str, Any]


def kind_of(run: RunFile) -> ModelKind:
    """The kind of model of a run; embedders if the file names no model."""
    return MODEL_KINDS[run.model.type] if run.model else EMBEDDERS


SECTIONS = ("model", "data", "loss", "args", "evaluators", "callbacks", "scaling", "run")
"""The keys of a run file."""


def read_run(path: str, overrides: Sequence[str] = ()) -> RunFile:
    """Read a run file.

    Args:
        path: The YAML file.
        overrides: ``dotted.key=value`` each, the value written as in YAML; they override the file.

    Returns:
        The run, with known keys and values of the right types. Names of losses, evaluators and arguments are
        checked where they are looked up.

    Raises:
        RunFileError: If the file cannot be read, is not YAML, or has an unknown key or a value of the wrong
            type.
    """
    return parse_run(load_run(path, overrides), path)


def parse_run(raw: Mapping[str, Any], source: str) -> RunFile:
    """Validates a run's plain values.

    Args:
        raw: The values, as returned by :func:`load_run`.
        source: Name of the file, for errors.

    Raises:
        RunFileError: If there is an unknown key or a value of the wrong type.
    """
    if "search" in raw:
        raise RunFileError(
            f"{at(source, 'search')}: a search is run by `ray-st tune {source}`, which writes what it finds "
            "into best.yaml. To train what the file itself describes, leave the section out: search="
        )
    check_keys(raw, SECTIONS, source)
    data = _data(raw["data"], at(source, "data")) if "data" in raw else None
    model = _model(raw["model"], at(source, "model")) if "model" in raw else None
    kind = MODEL_KINDS[model.type] if model else EMBEDDERS
    return RunFile(
        source=source,
        model=model,
        data=data,
        loss=_loss_or_losses(raw.get("loss", {"name": kind.default_loss}), data, at(source, "loss")),
        args=check_mapping(raw.get("args", {}), at(source, "args")),
        evaluators=_each(raw, "evaluators", _evaluator, source),
        callbacks=_each(raw, "callbacks", _callback, source),
        scaling=check_mapping(raw.get("scaling", {}), at(source, "scaling")),
        run=check_mapping(raw.get("run", {}), at(source, "run")),
    )


def _model(value: object, where: str) -> ModelSpec:
    model = build(ModelSpec, value, where)
    if model.type not in MODEL_KINDS:
        hint = did_you_mean(model.type, MODEL_KINDS)
        raise RunFileError(f"{at(where, 'type')}: unknown kind of model {model.type!r}; {hint}")
    check_options(model.type, {name for name, option in asdict(model).items() if option}, where)
    return model


def _data(value: object, where: str) -> DataSpec:
    given = check_mapping(value, where)
    check_keys(given, ("train", "eval"), where)
    if "train" not in given:
        raise RunFileError(f"{at(where, 'train')}: missing")
    return DataSpec(**{key: _table_or_tables(part, at(where, key)) for key, part in given.items()})


def _table_or_tables(value: object, where: str) -> TableSpec | dict[str, TableSpec]:
    if value == {}:
        raise RunFileError(f"{where}: names no table")
    if not is_named(value):
        return build(TableSpec, value, where)
    return {
        name: build(TableSpec, part, at(where, name)) for name, part in check_mapping(value, where).items()
    }


def _loss_or_losses(value: object, data: DataSpec | None, where: str) -> LossSpec | dict[str, LossSpec]:
    """One loss; or, if the data has several tables, one per table by name."""
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
                f"{at(where, name)}: neither a loss's `name` nor a table of `data`; "
                f"{did_you_mean(name, tables)}"
            )
    lacking = next((name for name in tables if name not in given), None)
    if lacking is not None:
        raise RunFileError(f"{at(where, lacking)}: missing; each table of `data` needs a loss")
    return {name: _loss(part, at(where, name)) for name, part in given.items()}


def _loss(value: object, where: str) -> LossSpec:
    options = dict(check_mapping(value, where))
    return LossSpec(_word(options, "name", where), options)


def _evaluator(value: object, where: str) -> EvaluatorSpec:
    options = dict(check_mapping(value, where))
    kind = _word(options, "type", where)
    if "data" not in options and "." in kind:
        return EvaluatorSpec(kind, None, options)
    if "data" not in options:
        raise RunFileError(f"{at(where, 'data')}: missing; the rows that {kind} needs")
    table = build(TableSpec, options.pop("data"), at(where, "data"))
    return EvaluatorSpec(kind, table, options)


def _each(
    raw: Mapping[str, Any], section: str, make: Callable[[object, str], T], source: str
) -> tuple[T, ...]:
    """Makes the parts that a section lists."""
    value, where = raw.get(section, []), at(source, section)
    if not isinstance(value, list):
        raise RunFileError(f"{where}: expected a list of {section}, found {value!r}")
    return tuple(make(part, at(where, place)) for place, part in enumerate(value))


def _callback(value: object, where: str) -> CallbackSpec:
    options = {"type": value} if isinstance(value, str) else dict(check_mapping(value, where))
    return CallbackSpec(_word(options, "type", where), options)


def _word(options: dict[str, Any], key: str, where: str) -> str:
    """Removes a name from a mapping and returns it."""
    if not isinstance(options.get(key), str):
        raise RunFileError(f"{at(where, key)}: expected a name, found {options.get(key)!r}")
    return str(options.pop(key))
