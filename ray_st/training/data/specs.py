"""A run as one value: what goes from the driver to every worker, and what comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ray_st.data.encoding import Encoding
from ray_st.training.checkpoint.lease import Fence
from ray_st.training.checkpoint.resume import Start
from ray_st.training.worker_context import WorkerContext

TRAIN = "train"


def eval_names(sources: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to evaluation datasets, by the name of the dataset."""
    prefix = eval_key("")
    return {name.removeprefix(prefix): source for name, source in sources.items() if name.startswith(prefix)}


def eval_key(name: str) -> str:
    """Name of the batch source of an evaluation dataset; a single dataset has the name ""."""
    return f"eval:{name}"


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a run.

    Args:
        label: What to call it in errors.
        source: A :class:`datasets.Dataset`, a Ray Dataset, or a :class:`ray_st.data.sources.Source`.
        encoding: What to make of its rows.
        batch_size: Rows of a global batch.
        make_sampler: Makes the batch sampler from the keys of the rows, or of a window's rows, and a seed.
        prompt_lengths: Number of prompt tokens of each text column.
        pool: How many rows in-batch negatives come from; None for a loss without them.
    """

    label: str
    source: Any
    encoding: Encoding
    batch_size: int
    make_sampler: Callable[[Any, int], Any]
    prompt_lengths: Mapping[str, int] = field(default_factory=dict)
    pool: int | None = None


@dataclass(frozen=True)
class LoaderSpec:
    """The datasets whose batches make up one stream.

    Args:
        datasets: The datasets by name; a single one has the name "".
        mix: Makes the sampler over several datasets from :class:`ray_st.data.mixing.Concatenated` keys, a
            sampler for each, and a seed; None for a single dataset.
        epochs: How many epochs will at most be planned, as a function of the number of rows.
        rows_needed: Least number of rows.
        seed: Seed of the order.
        drop_last: Whether batches that are not full are left out.
        skip_bad_rows: Whether unusable rows are left out; otherwise they are an error.
        window_bytes: Most bytes of a dataset's encoded rows to shuffle at once; None for no bound.
        settings: What else the order of samples depends on, by what to call it; see
            :func:`ray_st.training.data.sampler_factory.order_settings`.
    """

    datasets: Mapping[str, DatasetSpec]
    mix: Callable[[Any, list[Any], int], Any] | None = None
    epochs: Callable[[int], int] = lambda rows: 1
    rows_needed: int = 1
    seed: int = 0
    drop_last: bool = False
    skip_bad_rows: bool = False
    window_bytes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSpec:
    """Everything that a worker needs.

    Args:
        run_id: Name of this run in manifests; a restarted worker goes on from checkpoints of this run.
        build: Makes the trainer at a worker's place.
        task: What the trainer does there; returns a picklable value.
        sources: Names of its batch sources.
        start: The checkpoint from which it starts.
        prompt_lengths: For each dataset, the number of prompt tokens of each text column.
        bar: Whether the driver's console can show a bar.
        log_level: Least level of ``logging`` records that the driver's console shows.
        facts: What the order of samples depends on; goes into manifests.
        ledger: Whether to write down which rows each step used.
        fence: The right to write into the run's folder; None for a run that keeps nothing.
        all_cores: Whether a worker computes with all cores of its node, not only with those that it asked
            for.
    """

    run_id: str
    build: Callable[[WorkerContext], Any]
    task: Callable[[Any, str | None], Any]
    sources: tuple[str, ...] = ()
    start: Start = Start()  # noqa: RUF009  frozen
    prompt_lengths: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    bar: bool = False
    log_level: int = logging.WARNING
    facts: Mapping[str, Any] = field(default_factory=dict)
    ledger: bool = False
    fence: Fence | None = None
    all_cores: bool = False


@dataclass(frozen=True)
class RunResult:
    """What the first worker sends back.

    Args:
        result: What the task returned (transformers' ``TrainOutput``, or evaluation figures).
        state: The trainer's state as JSON; empty if the task did not change it.
        model: The model's tensors by name; empty if the task did not change them.
        loss: The tensors that losses own.
        callbacks: For each of the user's callbacks its attributes.
        card: The model's card data, with the figures of the run.
        extras: Attributes of the trainer's subclass, where the task ran in the driver's process.
        interrupted: Whether Ctrl-C was pressed too late to stop the run, which had reached its end.
    """

    result: Any
    state: str = ""
    model: Mapping[str, Tensor] = field(default_factory=dict)
    loss: Mapping[str, Tensor] = field(default_factory=dict)
    callbacks: tuple[Mapping[str, Any], ...] = ()
    card: Any = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False
