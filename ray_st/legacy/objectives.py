"""From loaders of examples to datasets and the order of their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol, runtime_checkable

import datasets
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from ray_st.data.grouping import GroupByLabelBatchSampler
from ray_st.data.keys import Keys
from ray_st.data.samplers import (
    DefaultBatchSampler,
    NoDuplicatesBatchSampler,
    PlannedBatchSampler,
    RandomOrder,
)
from ray_st.datasets.no_duplicates import NoDuplicatesDataLoader
from ray_st.datasets.sentence_label import SentenceLabelDataset
from ray_st.models.fit_methods import FittedStack, Objectives
from ray_st.readers.input_example import InputExample, as_columns
from ray_st.training_args import BatchSamplers

_INSTEAD = (
    "fit reads the examples and makes batches itself. Use SentenceTransformerTrainer with a batch sampler "
    "or collator of yours, or old_fit, which uses loaders as they are."
)


@dataclass(frozen=True)
class Order:
    """How a loader's examples are put into batches; creates the sampler that does so.

    Args:
        batch_size: Examples per batch.
        drop_last: Whether to leave out incomplete batches.
        kind: How examples are grouped.
        shuffle: Whether to shuffle them, if ``kind`` does not determine their order.
        seed: Seed of the order; None for the run's.
    """

    batch_size: int
    drop_last: bool = False
    kind: BatchSamplers = BatchSamplers.BATCH_SAMPLER
    shuffle: bool = True
    seed: int | None = None

    def __call__(self, keys: Keys, seed: int) -> PlannedBatchSampler:
        """The batch sampler over rows with these keys."""
        seed = seed if self.seed is None else self.seed
        if self.kind == BatchSamplers.NO_DUPLICATES:
            return NoDuplicatesBatchSampler(keys, self.batch_size, self.drop_last, seed=seed)
        if self.kind == BatchSamplers.GROUP_BY_LABEL:
            return GroupByLabelBatchSampler(keys, self.batch_size, self.drop_last, seed=seed)
        order = RandomOrder(len(keys), seed, self.shuffle)
        return DefaultBatchSampler(order, self.batch_size, self.drop_last)


@dataclass(frozen=True)
class FitObjective:
    """Rows to train on, their order, and the loss.

    Args:
        rows: ``sentence_0``, ``sentence_1``, … and optionally ``label``.
        order: How they are put into batches.
        loss: The loss.
        tasks: The task of each column's texts, for a model with a Router, from examples with ``{task:
            text}``.
    """

    rows: datasets.Dataset
    order: Order
    loss: nn.Module
    tasks: Mapping[str, str] = field(default_factory=dict)


def read_objectives(train_objectives: Objectives) -> dict[str, FitObjective]:
    """Reads all examples.

    Args:
        train_objectives: Pairs of a loader and a loss.

    Returns:
        ``objective_1``, ``objective_2``, …

    Raises:
        ValueError: If there is no objective, a loader has a sampler or ``collate_fn`` of its own, or the
            numbers of its examples' texts differ.
    """
    objectives = {}
    for number, (loader, loss) in enumerate(train_objectives, start=1):
        examples, order = _opened(loader, f"train_objectives[{number - 1}]")
        columns = as_columns(examples, label=_wants_labels(loss, examples))
        tasks = {name: task for name, values in columns.items() if (task := _task_of(values)) is not None}
        texts = {name: [text[task] for text in columns[name]] for name, task in tasks.items()}
        rows = datasets.Dataset.from_dict({**columns, **texts})
        objectives[f"objective_{number}"] = FitObjective(rows, order, loss, tasks)
    if not objectives:
        raise ValueError("train_objectives: expected pairs of a loader and a loss; found none.")
    return objectives


def _task_of(texts: Sequence[Any]) -> str | None:
    """The task that all texts of a column name, as ``{task: text}``; None if they do not."""
    named = [list(text) for text in texts if isinstance(text, Mapping)]
    one = len(named) == len(texts) and all(names == named[0] and len(names) == 1 for names in named)
    return str(named[0][0]) if named and one else None


def _opened(loader: object, place: str) -> tuple[Sequence[InputExample], Order]:
    if isinstance(loader, NoDuplicatesDataLoader):
        own = loader._sampler
        kind = BatchSamplers.NO_DUPLICATES
        return loader.train_examples, Order(loader.batch_size, own.drop_last, kind, seed=own.seed)
    if not isinstance(loader, DataLoader):
        raise ValueError(
            f"{place}: expected a DataLoader or NoDuplicatesDataLoader; found {type(loader).__name__}. "
            f"{_INSTEAD}"
        )
    _check(loader, place)
    assert loader.batch_size is not None
    data = loader.dataset
    if isinstance(data, SentenceLabelDataset):
        kind = BatchSamplers.GROUP_BY_LABEL
        return data.examples, Order(loader.batch_size, loader.drop_last, kind, seed=data.seed)
    shuffle = isinstance(loader.sampler, RandomSampler)
    seed = None if loader.generator is None else loader.generator.initial_seed()
    order = Order(loader.batch_size, loader.drop_last, shuffle=shuffle, seed=seed)
    if isinstance(data, IterableDataset):
        return list(data), order
    return [data[row] for row in range(len(data))], order  # type: ignore[arg-type]


def _check(loader: DataLoader[Any], place: str) -> None:
    """Raises for samplers and collators of the user's own, which fit would ignore."""
    if loader.batch_size is None:
        raise ValueError(f"{place}: the loader has a batch_sampler of its own. {_INSTEAD}")
    collate: Any = loader.collate_fn
    known = (default_collate, FittedStack.smart_batching_collate)
    if (collate.__func__ if isinstance(collate, MethodType) else collate) not in known:
        raise ValueError(f"{place}: the loader has a collate_fn of its own ({collate!r}). {_INSTEAD}")
    if isinstance(loader.dataset, IterableDataset):
        return
    sampler: Any = loader.sampler
    rows = len(loader.dataset)  # type: ignore[arg-type]
    once = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == rows
    if not once and type(sampler) is not SequentialSampler:
        raise ValueError(f"{place}: the loader has a sampler of its own ({sampler!r}). {_INSTEAD}")


@runtime_checkable
class _DeclaresLabels(Protocol):
    """A loss of this package."""

    labels: str | None


def _wants_labels(loss: nn.Module, examples: Sequence[InputExample]) -> bool:
    """Whether the loss uses labels: as it declares, or else whether any differs from the default, 0."""
    declared = loss.labels if isinstance(loss, _DeclaresLabels) else None
    needs = "optional" if declared is None else str(declared)
    if needs == "none":
        return False
    if needs.startswith(("none", "optional")):
        return not all(isinstance(example.label, int | float) and example.label == 0 for example in examples)
    return True
