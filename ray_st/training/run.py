"""A run as one value: what goes from the driver to every worker, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ray_st.data.encode import Encoding
from ray_st.training.place import Place

TRAIN_FEED = "train"


def eval_names(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to evaluation datasets, by the name of the dataset."""
    prefix = eval_feed("")
    return {name.removeprefix(prefix): feed for name, feed in feeds.items() if name.startswith(prefix)}


def eval_feed(name: str) -> str:
    """Name of the feed of an evaluation dataset; a single dataset has the name ""."""
    return f"eval:{name}"


@dataclass(frozen=True)
class DataPart:
    """One dataset of a run.

    Args:
        name: What to call it in errors.
        source: A :class:`datasets.Dataset` or a Ray Dataset.
        encoding: What to make of its rows.
        make_sampler: Makes the batch sampler from the rows' keys.
        epochs: How many epochs will at most be planned, as a function of the number of rows.
        rows_needed: Least number of rows.
    """

    name: str
    source: Any
    encoding: Encoding
    make_sampler: Callable[[Any], Any]
    epochs: Callable[[int], int] = lambda rows: 1
    rows_needed: int = 1


@dataclass(frozen=True)
class Run:
    """Everything that a worker needs.

    Args:
        run_id: Name of this run in manifests; a restarted worker goes on from checkpoints of this run.
        build: Makes the trainer at a worker's place.
        task: What the trainer does there; returns a picklable value.
        feeds: Names of its datasets.
        resume_from: Path of the checkpoint folder from which the run starts, or None.
        prompt_lengths: Number of prompt tokens of each text column.
        bar: Whether the driver has a terminal on which to show a bar.
    """

    run_id: str
    build: Callable[[Place], Any]
    task: Callable[[Any, str | None], Any]
    feeds: tuple[str, ...] = ()
    resume_from: str | None = None
    prompt_lengths: Mapping[str, int] = field(default_factory=dict)
    bar: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the first worker sends back.

    Args:
        result: What the task returned (transformers' ``TrainOutput``, or evaluation figures).
        state: The trainer's state as JSON.
        model: The model's tensors by name; empty if the task did not change them.
        loss: The tensors that losses own.
        callbacks: For each of the user's callbacks its attributes.
        card: The model's card data, with the figures of the run.
    """

    result: Any
    state: str
    model: Mapping[str, Tensor] = field(default_factory=dict)
    loss: Mapping[str, Tensor] = field(default_factory=dict)
    callbacks: tuple[Mapping[str, Any], ...] = ()
    card: Any = None
