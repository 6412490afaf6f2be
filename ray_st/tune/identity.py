"""What a search is: the facts that must be the same when a search of its name goes on, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any

import datasets
import numpy as np
from torch import nn

from ray_st.data.sources import Source
from ray_st.study.objective import try_out
from ray_st.training.data.dataset_specs import is_ray_dataset
from ray_st.training.data.specs import DatasetSpec, LoaderSpec
from ray_st.training.strategies.step_module import losses_of
from ray_st.tune.trial_factory import Trial
from ray_st.util.digest import digest

ROWS = 4096
"""Rows of a dataset that are looked at before it is encoded; all are compared once they are."""

WEIGHTS = 256
"""Values of a tensor that are looked at."""

FREE = (
    *(
        "output_dir",
        "eval_on",
        "eval_resources",
        "ledger",
        "run_name",
        "report_to",
        "project",
        "disable_tqdm",
    ),
    *(
        "resume_from_checkpoint",
        "use_cpu",
        "no_cuda",
        "local_rank",
        "debug",
        "skip_memory_metrics",
        "ray_scope",
    ),
)
"""Training arguments that change nothing of what a trial learns or how it is measured, or that are told otherwise."""

FREE_KINDS = (
    "log_",
    "logging_",
    "save_",
    "hub_",
    "push_to_hub",
    "trackio_",
    "ddp_",
    "do_",
    "tpu_",
    "dataloader_",
)
"""How the names of others of this kind begin; one of these is not."""

DECIDES = ("dataloader_drop_last",)

FUNCTIONS = (
    "compute_metrics",
    "preprocess_logits_for_metrics",
    "data_collator",
    "optimizer_cls_and_kwargs",
    "optimizers",
)
"""What else a trainer is given that decides."""


def objective_facts(compute: Any) -> dict[str, Any]:
    """The objective: the names of figures, or what a function asks for and gives.

    Args:
        compute: As for :class:`ray_st.study.objective.Objective`.
    """
    if compute is None or isinstance(compute, str):
        return {"objective": compute}
    if not callable(compute):
        return {"objective": list(compute)}
    asked, given = try_out(compute, _made_up)
    if given is None:  # only its code tells what it makes of figures as a whole
        return {"objective": f"a function ({digest(compute)})"}
    _, opposite = try_out(compute, lambda name: 1 - _made_up(name))  # a maximum of two shows both
    return {"objective": f"a function of {', '.join(asked)} ({digest([given, opposite])})"}


def _made_up(name: str) -> float:
    """A figure between 0 and 1, the same for the same name."""
    return int(digest(name), 16) / 2**64


def argument_facts(args: Any, drawn: Collection[str]) -> dict[str, Any]:
    """The training arguments that are not the default's.

    Args:
        args: The arguments.
        drawn: Names that the space sets in every trial.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(args):
        name = field.name
        if name in drawn or _is_free(name) or not field.init:
            continue
        value = getattr(args, name)
        default = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value != (default if field.default is dataclasses.MISSING else field.default):
            found[f"args.{name}"] = _shown(value)
    return found


def _is_free(name: str) -> bool:
    return name in FREE or (name.startswith(FREE_KINDS) and name not in DECIDES)


def _shown(value: Any) -> Any:
    plain = getattr(value, "value", value)
    return plain if isinstance(plain, str | bool | int | float | type(None)) else digest(plain)


def trial_facts(example: Trial, evaluator: Any, workers: int) -> dict[str, Any]:
    """What trials are made of, as far as one of them tells: model, losses, evaluators, data.

    Args:
        example: A trial, always with the same parameters.
        evaluator: The trainer's, or None.
        workers: How many workers a trial has.
    """
    shell = example.shell
    parts: dict[str, LoaderSpec] = {
        **shell._train_parts(workers),
        **shell._eval_parts(shell.eval_dataset, workers),
    }
    options = example.description.options
    return {
        "trainer": example.description.kind.__name__,
        "functions": digest([options[name] for name in FUNCTIONS]),
        "model": _model(shell.model),
        "evaluators": [_evaluator(one) for one in _evaluators(evaluator)],
        **{_place("loss", name): _loss(one, shell.model) for name, one in losses_of(shell.loss).items()},
        **{
            _place(f"data.{feed}", name): _data(part)
            for feed, fed in parts.items()
            for name, part in fed.datasets.items()
        },
    }


def _place(kind: str, name: str) -> str:
    return f"{kind.removesuffix(f':{name}')}.{name}".strip(".")


def _model(model: nn.Module) -> str:
    """A model in few words: its classes, its number of weights, and a digest of some of their values."""
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
    """The class and public settings of a loss, and of the losses in it; not of the model that it trains."""
    yield f"{type(loss).__module__}.{type(loss).__qualname__}"
    yield {name: value for name, value in vars(loss).items() if not name.startswith("_")}
    for name, part in loss.named_children():
        if not isinstance(part, type(model)):
            yield name
            yield from _settings(part, model)


def _evaluators(evaluator: Any) -> list[Any]:
    if evaluator is None:
        return []
    several = getattr(evaluator, "evaluators", None)
    return [evaluator] if several is None else [found for one in several for found in _evaluators(one)]


def _evaluator(evaluator: Any) -> str:
    """An evaluator's class, name, and a digest of the rows it holds; what it notes while it works does not count."""
    held = {
        name: value
        for name, value in getattr(evaluator, "__dict__", {}).items()
        if isinstance(value, list | tuple | Mapping | Set)
        or (isinstance(value, np.ndarray) and value.dtype.kind in "biuUS")
    }
    settings: dict[str, Any] = getattr(evaluator, "get_config_dict", dict)()
    name = getattr(evaluator, "name", "")
    return f"{type(evaluator).__name__} {name!r} ({digest([evaluator, held, settings])})"


def _data(part: DatasetSpec) -> str:
    """A dataset: columns, rows of a global batch, and a digest of some of its rows."""
    names = part.encoding.columns.names
    return f"{', '.join(names)}; {part.batch_size} rows a global batch; {_rows(part.source, names)}"


def _rows(source: Any, names: Collection[str]) -> str:
    if isinstance(source, datasets.Dataset):
        bare = source.with_format(None).select_columns(list(names))
        some = bare[:: max(-(-len(bare) // ROWS), 1)]
        return f"{len(bare):,} rows ({digest(some)})"
    if isinstance(source, Source):
        return f"{len(source.parts()):,} parts (begin with {digest(_first_rows(source, names))})"
    assert is_ray_dataset(source)
    return "a Ray Dataset"


def _first_rows(source: Source, names: Collection[str]) -> Any:
    for part in source.parts(list(names)):
        for table in part.read(report=lambda bad: None):
            return table.slice(0, ROWS).to_pydict()
    return None
