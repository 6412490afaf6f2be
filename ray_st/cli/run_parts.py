"""Makes the objects of a run from its run file, each checked against the signature that takes it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ray_st.cli.evaluator_parts import make_evaluator
from ray_st.cli.model_kinds import EMBEDDERS, MODEL_KINDS, ModelKind
from ray_st.cli.named_classes import class_options, find_class
from ray_st.cli.run_checks import RunFileError, at, check_keys, check_types, located
from ray_st.cli.run_tables import open_tables
from ray_st.cli.runfile import CallbackSpec, LossSpec, ModelSpec, RunFile
from ray_st.data.sources.source import Source

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from ray_st.evaluation import SentenceEvaluator
    from ray_st.model_trainer import ModelTrainer
    from ray_st.runtime.train.ray_configs import RunConfig, ScalingConfig
    from ray_st.training_args import SentenceTransformerTrainingArguments

PACKAGE_SCHEME = "package://"


# ---- model and data ----


def open_model(spec: ModelSpec, where: str) -> Any:
    """Loads the initial model: a :class:`ray_st.SentenceTransformer`, or what ``type`` names.

    Raises:
        RunFileError: If it cannot be loaded.
    """
    options = {key: value for key, value in asdict(spec).items() if value is not None}
    kind = MODEL_KINDS[options.pop("type")]
    path, length = options.pop("path"), options.pop("max_seq_length", None)
    if "file_name" in options:
        if spec.backend == "torch":
            raise RunFileError(f"{at(where, 'file_name')}: only for backend onnx or openvino")
        options["model_kwargs"] = {"file_name": options.pop("file_name")}
    with located(where, ValueError, OSError):
        model = kind.find(kind.model)(model_path(path), **options)
        if length is not None:
            setattr(model, kind.length, length)
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


# ---- losses and arguments ----


def make_losses(
    specs: LossSpec | Mapping[str, LossSpec], where: str, kind: ModelKind = EMBEDDERS
) -> Callable[[Any], Any]:
    """Looks up a loss, or one per table by name; see :func:`make_loss`."""
    if isinstance(specs, LossSpec):
        return make_loss(specs, where, kind)
    makers = {name: make_loss(spec, at(where, name), kind) for name, spec in specs.items()}
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


def make_loss(spec: LossSpec, where: str, kind: ModelKind = EMBEDDERS) -> Callable[[Any], Any]:
    """Looks up a loss and checks its options.

    Args:
        spec: What the run file says.
        where: Location of the loss in the file, for errors.
        kind: The kind of model.

    Returns:
        A function that makes the loss for a model.

    Raises:
        RunFileError: If the loss, or one of its options, is unknown, or a value does not fit.
    """
    from ray_st.losses import Loss

    losses = kind.loss_names()
    known = {name: part for name in losses.__all__ if _is_loss(part := getattr(losses, name), Loss)}
    cls = find_class(spec.name, "loss", known, Loss, at(where, "name"))
    parameters = list(inspect.signature(cls).parameters.values())[1:]  # after the model
    options = class_options(spec.options, {part.name: part for part in parameters}, cls, where)

    def make(model: nn.Module) -> Any:
        with located(where, ValueError, TypeError):
            return cls(model, **options)

    return make


def _is_loss(part: object, base: type) -> bool:
    return isinstance(part, type) and issubclass(part, base) and not inspect.isabstract(part)


# ---- callbacks ----


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
        evaluator=make_evaluator(run),
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


def make_trainer(source: str, kind: ModelKind, **parts: Any) -> ModelTrainer:
    """Makes the trainer of a run file; the trainer rejects parts that do not fit together.

    Args:
        source: The run file, for errors.
        kind: The kind of model.
        parts: The trainer's arguments.

    Raises:
        RunFileError: If the trainer rejects them.
    """
    with located(source, ValueError):
        trainer: ModelTrainer = kind.find(kind.trainer)(**parts)
    return trainer
