"""Makes the objects of a run from its run file, each checked against the signature that takes it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ray_st.cli.run_checks import RunFileError, at, check_keys, check_types, located
from ray_st.cli.runfile import CallbackSpec, EvaluatorSpec, LossSpec, ModelSpec, RunFile
from ray_st.data.sources.errors import SourceError
from ray_st.data.sources.source import Source
from ray_st.data.table_spec import TableSpec, read_table
from ray_st.data.table_spec import open_table as open_source
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import TrainerCallback

    from ray_st.evaluation import SentenceEvaluator
    from ray_st.models.sentence_transformer import SentenceTransformer
    from ray_st.runtime.train.ray_configs import RunConfig, ScalingConfig
    from ray_st.trainer import SentenceTransformerTrainer
    from ray_st.training_args import SentenceTransformerTrainingArguments

PACKAGE_SCHEME = "package://"
_ABSTRACT = ("SentenceEvaluator", "SequentialEvaluator")


# ---- classes ----


def find_class(name: str, what: str, known: Mapping[str, Any], base: type, where: str) -> type:
    """The class that a run file names.

    Args:
        name: One of ``known``, or an import path such as ``my_package.losses.MyLoss``, resolved from the
            working directory.
        what: Kind of class for errors, such as ``loss``.
        known: Classes of the library by name.
        base: What the class must derive from.
        where: Location of the name in the run file, for errors.

    Raises:
        RunFileError: If there is no such class, its module cannot be imported, or it is of another kind.
    """
    if "." not in name:
        if name not in known:
            raise RunFileError(
                f"{where}: unknown {what} {name!r}; {did_you_mean(name, known)} "
                f"(a {what} of your own: MODULE.CLASS)"
            )
        found: type = known[name]
        return found
    return _imported(name, base, where)


def _imported(path: str, base: type, where: str) -> type:
    module, _, name = path.rpartition(".")
    if os.getcwd() not in sys.path:  # the path of a console script starts at its own folder
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise RunFileError(f"{where}: {module!r} cannot be imported from {os.getcwd()}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        what = "nothing of that name is there" if found is None else f"found {found!r}"
        raise RunFileError(f"{where}: expected {path} to be a class derived from {base.__name__}; {what}")
    return found


# ---- model and data ----


def open_model(spec: ModelSpec, where: str) -> SentenceTransformer:
    """Loads the initial model.

    Raises:
        RunFileError: If it cannot be loaded.
    """
    from ray_st.models.sentence_transformer import SentenceTransformer

    options = {key: value for key, value in asdict(spec).items() if value is not None}
    path, length = options.pop("path"), options.pop("max_seq_length", None)
    with located(where, ValueError, OSError):
        model = SentenceTransformer(model_path(path), **options)
        if length is not None:
            model.max_seq_length = length
    return model


def model_path(path: str) -> str:
    """Resolves ``package://NAME/FOLDER`` to a folder of an installed package; returns other paths unchanged.

    Raises:
        RunFileError: If the package or the folder is not there.
    """
    if not path.startswith(PACKAGE_SCHEME):
        return path
    package, _, folder = path.removeprefix(PACKAGE_SCHEME).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) / folder for place in (spec and spec.submodule_search_locations) or []]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise RunFileError(f"{path}: no such folder in an installed package (is {package!r} installed?)")
    return str(found)


def open_table(spec: TableSpec, where: str) -> Dataset:
    """Read a table.

    Raises:
        RunFileError: If it cannot be read as its spec says.
    """
    import datasets

    datasets.disable_progress_bars()  # they would mix with the command's output
    with located(where, SourceError):
        return read_table(spec)


def open_tables(specs: TableSpec | Mapping[str, TableSpec], where: str) -> Source | dict[str, Source]:
    """Opens a table, or several by name; their rows are read by the workers when the run starts.

    Raises:
        RunFileError: If files are missing, or their columns do not agree.
    """
    if isinstance(specs, TableSpec):
        return _opened(specs, where)
    return {name: _opened(spec, at(where, name)) for name, spec in specs.items()}


def _opened(spec: TableSpec, where: str) -> Source:
    with located(where, SourceError):
        source = open_source(spec)
        source.columns()
    return source


# ---- losses and arguments ----


def make_losses(specs: LossSpec | Mapping[str, LossSpec], where: str) -> Callable[[Any], Any]:
    """Looks up a loss, or one per table by name; see :func:`make_loss`."""
    if isinstance(specs, LossSpec):
        return make_loss(specs, where)
    makers = {name: make_loss(spec, at(where, name)) for name, spec in specs.items()}
    return lambda model: {name: make(model) for name, make in makers.items()}


def make_args(run: RunFile) -> SentenceTransformerTrainingArguments:
    """Makes the training arguments; ``output_dir`` defaults to ``outputs/`` and the run file's name.

    Raises:
        RunFileError: If an argument is unknown or has an invalid value.
    """
    from ray_st.training_args import SentenceTransformerTrainingArguments

    where = at(run.source, "args")
    check_keys(run.args, inspect.signature(SentenceTransformerTrainingArguments).parameters, where)
    check_types(run.args, get_type_hints(SentenceTransformerTrainingArguments), where)
    own = {
        name: find_class(run.args[name], "sampler", {}, object, at(where, name))
        for name in ("batch_sampler", "multi_dataset_batch_sampler")
        if "." in str(run.args.get(name))
    }
    given = {"output_dir": f"outputs/{Path(run.source).stem}", **run.args, **own}
    try:
        return SentenceTransformerTrainingArguments(**given)
    except (ValueError, ImportError) as error:
        raise RunFileError(f"{where}: {' '.join(str(error).split())}") from error


def make_loss(spec: LossSpec, where: str) -> Callable[[Any], Any]:
    """Looks up a loss and checks its options.

    Returns:
        A function that makes the loss for a model.

    Raises:
        RunFileError: If the loss, or one of its options, is unknown, or a value does not fit.
    """
    from ray_st import losses

    known = {name: part for name in losses.__all__ if _is_loss(part := getattr(losses, name), losses.Loss)}
    cls = find_class(spec.name, "loss", known, losses.Loss, at(where, "name"))
    parameters = list(inspect.signature(cls).parameters.values())[1:]  # after the model
    options = _options(spec.options, {part.name: part for part in parameters}, cls, where)

    def make(model: nn.Module) -> Any:
        with located(where, ValueError, TypeError):
            return cls(model, **options)

    return make


def _is_loss(part: object, base: type) -> bool:
    return isinstance(part, type) and issubclass(part, base) and part is not base


def _options(
    given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], cls: type, where: str
) -> dict[str, Any]:
    check_keys(given, parameters, where)
    options = {
        key: _named(value, parameters[key], at(where, key)) if isinstance(value, str) else value
        for key, value in given.items()
    }
    check_types(options, get_type_hints(cls.__init__), where)  # type: ignore[misc]
    return options


def _named(value: str, parameter: inspect.Parameter, where: str) -> Any:
    """Resolves a name where a function of ``ray_st.util`` or a member of an enumeration is expected."""
    default = parameter.default
    if isinstance(default, Enum):
        members = {str(member.value): member for member in type(default)}
        if value not in members:
            raise RunFileError(f"{where}: unknown choice {value!r}; {did_you_mean(value, members)}")
        return members[value]
    if inspect.isfunction(default):
        from ray_st import util

        if value not in util.__all__:
            raise RunFileError(
                f"{where}: no function {value!r} in ray_st.util; {did_you_mean(value, util.__all__)}"
            )
        return getattr(util, value)
    return value


# ---- evaluators and callbacks ----


def make_evaluators(run: RunFile) -> list[SentenceEvaluator]:
    """Makes the evaluators of a run file, with their rows.

    Raises:
        RunFileError: If an evaluator, or one of its options, is unknown, or its rows do not fit.
    """
    where = at(run.source, "evaluators")
    return [_make_evaluator(spec, at(where, place)) for place, spec in enumerate(run.evaluators)]


def _make_evaluator(spec: EvaluatorSpec, where: str) -> SentenceEvaluator:
    from ray_st import evaluation

    names = [name for name in evaluation.__all__ if name.endswith("Evaluator") and name not in _ABSTRACT]
    known = {name: getattr(evaluation, name) for name in names}
    cls = find_class(spec.type, "evaluator", known, evaluation.SentenceEvaluator, at(where, "type"))
    parameters = inspect.signature(cls).parameters
    wanted = [name for name, part in parameters.items() if part.default is inspect.Parameter.empty]
    free = {name: part for name, part in parameters.items() if name not in wanted}
    options = _options(spec.options, free, cls, where)
    columns = []
    with located(where, ValueError, TypeError):
        if spec.data is not None:
            table = open_table(spec.data, at(where, "data"))
            arrange = _queries_and_passages if spec.type == "InformationRetrievalEvaluator" else _in_order
            columns = arrange(table, wanted)
        evaluator: SentenceEvaluator = cls(*columns, **options)
    return evaluator


def _in_order(table: Dataset, wanted: list[str]) -> list[Any]:
    """The columns of a table as the evaluator's leading arguments."""
    if len(table.column_names) != len(wanted):
        raise ValueError(f"expected the columns {wanted}, in this order; found {table.column_names}")
    return [list(table[name]) for name in table.column_names]


def _queries_and_passages(table: Dataset, wanted: list[str]) -> list[Any]:
    """Queries, corpus and relevant passages from rows of (query, passage); equal texts are merged."""
    queries, passages = _in_order(table, ["query", "passage"])
    query_ids, passage_ids = _numbered("q", queries), _numbered("d", passages)
    relevant: dict[str, set[str]] = {}
    for query, passage in zip(queries, passages, strict=True):
        relevant.setdefault(query_ids[query], set()).add(passage_ids[passage])
    return [
        {number: text for text, number in query_ids.items()},
        {number: text for text, number in passage_ids.items()},
        relevant,
    ]


def _numbered(letter: str, texts: list[str]) -> dict[str, str]:
    return {text: f"{letter}{number}" for number, text in enumerate(dict.fromkeys(texts))}


def make_callbacks(specs: Sequence[CallbackSpec], where: str) -> list[TrainerCallback]:
    """Makes callbacks: those of transformers by name, custom ones by import path.

    Args:
        specs: What the run file says.
        where: Location of the list in the file, for errors.

    Raises:
        RunFileError: If a callback, or one of its options, is unknown.
    """
    return [_make_callback(spec, at(where, place)) for place, spec in enumerate(specs)]


def _make_callback(spec: CallbackSpec, where: str) -> TrainerCallback:
    from transformers import EarlyStoppingCallback, TrainerCallback

    known = {"EarlyStoppingCallback": EarlyStoppingCallback}
    cls = find_class(spec.type, "callback", known, TrainerCallback, at(where, "type"))
    parameters = inspect.signature(cls).parameters
    if not any(part.kind is inspect.Parameter.VAR_KEYWORD for part in parameters.values()):
        check_keys(spec.options, parameters, where)
    with located(where, TypeError, ValueError):
        callback: TrainerCallback = cls(**spec.options)
    return callback


# ---- the trainer ----


@dataclass(frozen=True)
class TrainerParts:
    """The trainer's arguments except model and loss, by their names."""

    args: SentenceTransformerTrainingArguments
    scaling_config: ScalingConfig | None
    run_config: RunConfig | None
    train_dataset: Source | dict[str, Source]
    eval_dataset: Source | dict[str, Source] | None
    evaluator: SentenceEvaluator | None
    callbacks: list[TrainerCallback]


def make_parts(run: RunFile) -> TrainerParts:
    """Makes the parts of a run that need no model, with cheap checks first.

    Raises:
        RunFileError: If something is missing, unknown, or does not fit.
    """
    assert run.data is not None, "required_model() has checked it"
    where = at(run.source, "data")
    return TrainerParts(
        args=make_args(run),
        scaling_config=make_scaling(run.scaling, run.source),
        run_config=_make_run_config(run),
        train_dataset=open_tables(run.data.train, at(where, "train")),
        eval_dataset=open_tables(run.data.eval, at(where, "eval")) if run.data.eval else None,
        evaluator=_as_one(make_evaluators(run)),
        callbacks=make_callbacks(run.callbacks, at(run.source, "callbacks")),
    )


def required_model(run: RunFile) -> ModelSpec:
    """The initial model of a run to train.

    Raises:
        RunFileError: If the file has no model, or no data.
    """
    if run.model is None or run.data is None:
        raise RunFileError(f"{at(run.source, 'model' if run.model is None else 'data')}: missing")
    return run.model


def make_scaling(values: Mapping[str, Any], source: str) -> ScalingConfig | None:
    """Makes Ray Train's ``ScalingConfig``; None if there are no values.

    Args:
        values: The run file's ``scaling``.
        source: The run file, for errors.

    Raises:
        RunFileError: If a key is unknown, or Ray rejects a value.
    """
    from ray_st.runtime.train import ray_configs

    where = at(source, "scaling")
    check_keys(values, ray_configs.SCALING_KEYS, where)
    with located(where, ValueError):
        return ray_configs.scaling_config(values)


def _make_run_config(run: RunFile) -> RunConfig | None:
    from ray_st.runtime.train import ray_configs

    where = at(run.source, "run")
    check_keys(run.run, ray_configs.RUN_KEYS, where)
    with located(where, ValueError):
        return ray_configs.run_config(run.run)


def _as_one(evaluators: list[SentenceEvaluator]) -> SentenceEvaluator | None:
    if len(evaluators) < 2:
        return evaluators[0] if evaluators else None
    from ray_st.evaluation import SequentialEvaluator

    return SequentialEvaluator(evaluators)


def make_trainer(source: str, **parts: Any) -> SentenceTransformerTrainer:
    """Makes the trainer of a run file; the trainer rejects parts that do not fit together.

    Args:
        source: The run file, for errors.
        parts: The trainer's arguments.

    Raises:
        RunFileError: If the trainer rejects them.
    """
    from ray_st.trainer import SentenceTransformerTrainer

    with located(source, ValueError):
        return SentenceTransformerTrainer(**parts)
