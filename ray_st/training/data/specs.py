"""The specification of a run, sent from the driver to every worker, and its result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_st.data.encoding import Encoding
from ray_st.data.mixing import Concatenated
from ray_st.data.token_cache import TokenCache
from ray_st.data.window_sampler import MakeSampler
from ray_st.training.checkpoint.lease import Fence
from ray_st.training.checkpoint.resume import Start
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.worker_context import WorkerContext

TRAIN = "train"


def eval_names(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of evaluation datasets, by dataset name."""
    prefix = eval_key("")
    return {name.removeprefix(prefix): source for name, source in sources.items() if name.startswith(prefix)}


def eval_key(name: str) -> str:
    """Name of the batch source of an evaluation dataset; a single dataset has the name ""."""
    return f"eval:{name}"


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a run.

    Args:
        label: Its name in error messages.
        source: A :class:`datasets.Dataset`, a Ray Dataset, or a :class:`ray_st.data.sources.Source`.
        encoding: How to encode its rows.
        batch_size: Rows of a global batch.
        make_sampler: Creates the batch sampler from the keys of the rows, or of a window's rows, and a seed.
        prompt_lengths: Number of prompt tokens of each text column.
        pool: Number of rows that provide in-batch negatives; None for a loss without them.
    """

    label: str
    source: Any
    encoding: Encoding
    batch_size: int
    make_sampler: MakeSampler
    prompt_lengths: Mapping[str, int] = field(default_factory=dict)
    pool: int | None = None


@dataclass(frozen=True)
class LoaderSpec:
    """The datasets whose batches make up one stream.

    Args:
        datasets: The datasets by name; a single one has the name "".
        mix: Creates the sampler over several datasets from :class:`ray_st.data.mixing.Concatenated` keys, a
            sampler for each, and a seed; None for a single dataset.
        epochs: Upper bound on the number of epochs to plan, as a function of the number of rows.
        rows_needed: Minimum number of rows.
        seed: Seed of the order.
        drop_last: Whether to drop partial batches.
        skip_bad_rows: Whether to skip unusable rows; otherwise they are an error.
        window_rows: Rows of a dataset to shuffle at once; None for all.
        streams: Whether the number of steps follows from the number of rows alone, so that windows can be
            planned one by one.
        steps_needed: Number of batches that the run takes at most; None if epochs say it.
        token_cache: Where encoded rows are kept for other runs; None for nowhere.
        settings: Further settings that the sample order depends on, by name; see
            :func:`ray_st.training.data.sampler_factory.order_settings`.
    """

    datasets: Mapping[str, DatasetSpec]
    mix: Callable[[Concatenated, list[Any], int], Any] | None = None
    epochs: Callable[[int], int] = lambda rows: 1
    rows_needed: int = 1
    seed: int = 0
    drop_last: bool = False
    skip_bad_rows: bool = False
    window_rows: int | None = None
    streams: bool = False
    steps_needed: int | None = None
    token_cache: TokenCache | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plans_windows(self) -> bool:
        """Whether windows are planned one by one if there are several."""
        return self.streams and self.window_rows is not None


@dataclass(frozen=True)
class RunSpec:
    """Everything that a worker needs.

    Args:
        run_id: Name of this run in manifests; a restarted worker resumes from checkpoints of this run.
        build: Creates the trainer from a worker's context.
        task: What the trainer runs there; returns a picklable value.
        sources: Names of its batch sources.
        start: The checkpoint from which it starts.
        prompt_lengths: For each dataset, the number of prompt tokens of each text column.
        bar: Whether the driver's console can show a progress bar.
        log_level: Minimum level of ``logging`` records shown on the driver's console.
        facts: Everything the sample order depends on; recorded in manifests.
        ledger: Whether to record which rows each step used.
        fence: The right to write to the run's folder; None for a run that stores nothing.
        all_cores: Whether a worker uses all cores of its node, not only those that it requested.
        keeps_weights: Whether the first worker leaves the trained weights in the run's folder.
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
    keeps_weights: bool = False


@dataclass(frozen=True)
class RunResult:
    """What the first worker sends back.

    Args:
        result: What the task returned (transformers' ``TrainOutput``, or evaluation metrics).
        state: The trainer's state as JSON; empty if the task did not change it.
        weights: Name of the file, in the run's folder, of the trained weights; empty if there is none.
        store: The run's folder, as the driver sees it; None on the worker.
        callbacks: The attributes of each of the user's callbacks.
        card: The model's card data, with the metrics of the run.
        extras: Attributes of the trainer's subclass, where the task ran in the driver's process.
        interrupted: Whether Ctrl-C came too late to stop the run, because it had already finished.
    """

    result: Any
    state: str = ""
    weights: str = ""
    store: CheckpointStore | None = None
    callbacks: tuple[Mapping[str, Any], ...] = ()
    card: Any = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False
