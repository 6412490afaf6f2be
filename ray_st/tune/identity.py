"""A search's identity: what must stay the same for a search of its name to continue, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Set
from enum import Enum
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from torch import nn
from transformers import TrainingArguments

from ray_st.data.sources import Source
from ray_st.study.objective import Compute, Objective, try_out
from ray_st.training.argument_checks import Scaling
from ray_st.training.data.dataset_specs import RayDataset
from ray_st.training.data.specs import DatasetSpec, LoaderSpec
from ray_st.training.strategies.step_module import losses_of
from ray_st.training.trainer_spec import Trial
from ray_st.util.digest import digest
from ray_st.world import WorkerRange

if TYPE_CHECKING:
    from ray_st.model_trainer import ModelTrainer
    from ray_st.tune.checked_search import CheckedSearch

ROWS = 4096
"""Rows of a dataset that are compared before it is encoded; afterwards all of them are."""

WEIGHTS = 256
"""Values of a tensor that are compared."""

IGNORED = frozenset(
    [
        "output_dir",
        "eval_on",
        "eval_resources",
        "ledger",
        "scratch_dir",
        "eager_download_bytes",
        "token_cache",
        "token_cache_bytes",
        "run_name",
        "report_to",
        "project",
        "disable_tqdm",
        "resume_from_checkpoint",
        "use_cpu",
        "no_cuda",
        "local_rank",
        "debug",
        "skip_memory_metrics",
        "ray_scope",
    ]
)
"""Training arguments that do not affect a trial's training or metrics, or are compared elsewhere."""

IGNORED_PREFIXES = (
    *("log_", "logging_", "save_", "hub_", "push_to_hub", "trackio_"),
    *("ddp_", "do_", "tpu_", "dataloader_"),
)
"""Prefixes of more such names, except :data:`COMPARED`."""

COMPARED = ("dataloader_drop_last",)

FUNCTIONS = (
    "compute_metrics",
    "preprocess_logits_for_metrics",
    "data_collator",
    "optimizer_cls_and_kwargs",
    "optimizers",
)
"""Other arguments of the trainer that affect it."""


def objective_facts(compute: Compute) -> dict[str, Any]:
    """The objective: the names of metrics, or what a function asks for and returns.

    Args:
        compute: As for :class:`ray_st.study.objective.Objective`.
    """
    if compute is None or isinstance(compute, str):
        return {"objective": compute}
    if not callable(compute):
        return {"objective": list(compute)}
    asked, given = try_out(compute, _made_up)
    if given is None:  # only its code tells how it uses metrics as a whole
        return {"objective": f"a function ({digest(compute)})"}
    _, opposite = try_out(compute, lambda name: 1 - _made_up(name))  # a maximum of two shows both
    return {"objective": f"a function of {', '.join(asked)} ({digest([given, opposite])})"}


def _made_up(name: str) -> float:
    """A metric between 0 and 1, the same for the same name."""
    return int(digest(name), 16) / 2**64


def argument_facts(args: TrainingArguments, drawn: Collection[str]) -> dict[str, Any]:
    """The training arguments that differ from their defaults.

    Args:
        args: The arguments.
        drawn: Names that the space sets in every trial.
    """
    values = vars(args)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(args):
        if field.name in drawn or _is_ignored(field.name) or not field.init:
            continue
        default = field.default
        if default is dataclasses.MISSING:
            default = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        if values[field.name] != default:
            found[f"args.{field.name}"] = _shown(values[field.name])
    return found


def _is_ignored(name: str) -> bool:
    return name in IGNORED or (name.startswith(IGNORED_PREFIXES) and name not in COMPARED)


def _shown(value: object) -> object:
    plain = value.value if isinstance(value, Enum) else value
    return plain if isinstance(plain, str | bool | int | float | type(None)) else digest(plain)


def trial_facts(example: Trial, evaluator: object, workers: int) -> dict[str, Any]:
    """What trials are made of, as one of them shows: model, losses, evaluators, data.

    Args:
        example: A trial, always with the same hyperparameters.
        evaluator: The trainer's, or None.
        workers: How many workers a trial has.
    """
    data = example.data
    parts: dict[str, LoaderSpec] = {**data.train_specs(workers), **data.eval_specs(workers)}
    options = example.description.options
    return {
        "trainer": example.description.kind.__name__,
        "functions": digest([options[name] for name in FUNCTIONS]),
        "model": model_facts(data.model),
        "evaluators": [_evaluator(one) for one in _parts(evaluator)],
        **{_key("loss", name): _loss(one, data.model) for name, one in losses_of(data.loss).items()},
        **{
            _key(f"data.{source}", name): _data(part)
            for source, spec in parts.items()
            for name, part in spec.datasets.items()
        },
    }


def _key(kind: str, name: str) -> str:
    return f"{kind.removesuffix(f':{name}')}.{name}".strip(".")


def model_facts(model: nn.Module) -> str:
    """A model in brief: its classes, its number of weights, and a digest of some of their values.

    Args:
        model: The model.
    """
    state = model.state_dict()
    some = {}
    for name, weight in state.items():
        flat = weight.detach().flatten()
        some[name] = flat[:: max(len(flat) // WEIGHTS, 1)]
    kinds = ", ".join(type(part).__name__ for part in model.children())
    count = sum(weight.numel() for weight in state.values())
    return f"{type(model).__name__}({kinds}) of {count:,} values ({digest(some)})"


def _loss(loss: nn.Module, model: nn.Module) -> str:
    return f"{type(loss).__name__} ({digest(list(_settings(loss, model)))})"


def _settings(loss: nn.Module, model: nn.Module) -> Iterator[Any]:
    """The class and public settings of a loss and of the losses in it, without the model it trains."""
    yield f"{type(loss).__module__}.{type(loss).__qualname__}"
    yield {name: value for name, value in vars(loss).items() if not name.startswith("_")}
    for name, part in loss.named_children():
        if not isinstance(part, type(model)):
            yield name
            yield from _settings(part, model)


def _parts(evaluator: object) -> list[object]:
    match evaluator:
        case None:
            return []
        case object(evaluators=several) if several is not None:
            return [found for one in several for found in _parts(one)]
    return [evaluator]


def _evaluator(evaluator: object) -> str:
    """An evaluator's class, name, and a digest of the rows it holds; numbers that it updates do not count."""
    name, settings, held = "", {}, {}
    match evaluator:
        case object(name=given):
            name = given
    match evaluator:
        case object(get_config_dict=config):
            settings = config()
    match evaluator:
        case object(__dict__=attributes):
            held = {name: value for name, value in attributes.items() if _is_rows(value)}
    return f"{type(evaluator).__name__} {name!r} ({digest([evaluator, held, settings])})"


def _is_rows(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuUS"
    return isinstance(value, list | tuple | Mapping | Set)


def _data(part: DatasetSpec) -> str:
    """A dataset: columns, rows of a global batch, and a digest of some of its rows."""
    names = part.encoding.columns.names
    return f"{', '.join(names)}; {part.batch_size} rows a global batch; {_rows(part.source, names)}"


def _rows(source: object, names: Collection[str]) -> str:
    if isinstance(source, datasets.Dataset):
        bare = source.with_format(None).select_columns(list(names))
        some = bare[:: max(-(-len(bare) // ROWS), 1)]
        return f"{len(bare):,} rows ({digest(some)})"
    if isinstance(source, Source):
        return f"{len(source.parts()):,} parts (begin with {digest(_first_rows(source, names))})"
    assert isinstance(source, RayDataset)
    return "a Ray Dataset"


def _first_rows(source: Source, names: Collection[str]) -> dict[str, list[Any]] | None:
    for part in source.parts(list(names)):
        for table in part.read(report=lambda bad: None):
            return table.slice(0, ROWS).to_pydict()
    return None


def fixed_settings(checked: CheckedSearch, trainer: ModelTrainer) -> dict[str, Any]:
    """What must stay the same for the search to continue: not the number of trials, nor the machines."""
    settings = {
        "space": checked.distributions,
        "seed": checked.seed,
        **objective_settings(checked.objective),
        **constraint_settings(checked.objective),
    }
    if checked.population is not None:
        settings["population"] = {"trials": checked.trials, **checked.population.describe()}
    example = checked.template(0, checked.values)
    return {
        **settings,
        "rungs": checked.options.rungs,
        **trial_facts(example, trainer.evaluator, most_workers(trainer.scaling_config)),
        **argument_facts(trainer.args, checked.always_drawn),
    }


def objective_settings(objective: Objective) -> dict[str, Any]:
    """What the values of a search mean."""
    facts = {"directions": list(objective.directions), **objective_facts(objective.compute)}
    return facts if objective.scope == "last" else {**facts, "ray_scope": objective.scope}


def constraint_settings(objective: Objective) -> dict[str, Any]:
    """What a trial must satisfy; nothing in searches without constraints, as in earlier versions."""
    return {"constraints": sorted(map(str, objective.constraints))} if objective.constraints else {}


def most_workers(scaling: Scaling | None) -> int:
    """How many workers a trial has."""
    return 1 if scaling is None else WorkerRange.of(scaling.num_workers).most
