"""Converts the user's datasets to specs, with checks on the driver before anything is started."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeGuard, runtime_checkable

import datasets
import numpy as np
from torch import nn
from transformers import TrainingArguments

from ray_st.data.column_spec import ColumnSpec, LossNeeds, check_types, split_columns
from ray_st.data.sources import Source, as_source
from ray_st.training.data.specs import LoaderSpec


@runtime_checkable
class RayDataset(Protocol):
    """A Ray Dataset, known by its methods, since only runtime/ imports Ray."""

    def map_batches(self, fn: Callable[..., Any], **options: Any) -> Any:
        """Applies a function to batches of rows."""

    def iter_internal_ref_bundles(self) -> Any:
        """References to the blocks."""

    def schema(self) -> Any:
        """Names and types of the columns."""


def opened(value: object, label: str, rows: int | None = None) -> Any:
    """Opens a user's dataset as a source that a run can read.

    Args:
        value: A Ray Dataset or a :class:`datasets.Dataset`, which are returned unchanged, or anything that
            :func:`ray_st.data.sources.as_source` opens: paths, tables, columns, rows, streams, queries.
        label: Its name in error messages.
        rows: Maximum number of rows needed from a stream; None for all.

    Raises:
        ValueError: If it cannot be read.
    """
    if isinstance(value, datasets.Dataset | RayDataset):
        return value
    return as_source(value, label, rows=rows if isinstance(value, datasets.IterableDataset) else None)


def columns_of(
    source: Source | datasets.Dataset | RayDataset, label: str, loss: object | None = None
) -> ColumnSpec:
    """The columns of a dataset.

    Args:
        source: From :func:`opened`.
        label: Its name in error messages.
        loss: The loss, if it is known: it may take lists of texts.

    Raises:
        ValueError: If a text column does not hold strings, or lists of strings for such a loss.
    """
    if isinstance(source, Source):
        types = dict(source.columns())
    else:
        schema = source.features.arrow_schema if isinstance(source, datasets.Dataset) else source.schema()
        types = dict(zip(schema.names, schema.types, strict=True))
    columns = split_columns(list(types))
    check_types(columns, types, label, loss)
    return columns


def is_mixture(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value holds several named datasets, rather than the columns of one.

    Args:
        value: A dict of datasets, a :class:`datasets.DatasetDict`, a dict of columns, or a dataset.
    """
    if not isinstance(value, Mapping):
        return False
    return not all(
        isinstance(part, list | tuple | np.ndarray) and not (len(part) and isinstance(part[0], Mapping))
        for part in value.values()
    )


def negatives_pool(loss: nn.Module, batch_size: int, world_size: int) -> int | None:
    """Number of rows that provide in-batch negatives; None for a loss without them.

    These are a worker's rows, or all rows of a global batch.

    Args:
        loss: The loss.
        batch_size: Rows of a global batch.
        world_size: Number of workers.
    """
    needs = LossNeeds.of(loss)
    if not needs.in_batch_negatives:
        return None
    return batch_size if needs.gather_across_devices else math.ceil(batch_size / world_size)


def epochs_needed(args: TrainingArguments, global_batch: int) -> Callable[[int], int]:
    """The maximum number of epochs of a run, as a function of the number of rows.

    Args:
        args: Training arguments.
        global_batch: Rows of a full batch of the whole cluster.
    """

    def epochs(rows: int) -> int:
        if args.max_steps <= 0:
            return math.ceil(args.num_train_epochs)
        return math.ceil(args.max_steps * args.gradient_accumulation_steps / max(rows // global_batch, 1))

    return epochs


def named(dataset: object) -> Mapping[str, Any]:
    """Datasets by name; a single one has the name ""."""
    if dataset is None:
        return {}
    return dataset if is_mixture(dataset) else {"": dataset}


def names_of(eval_dataset: object) -> Any:
    """The names, in the structure of the evaluation datasets, which workers replace by batch sources."""
    if is_mixture(eval_dataset):
        return {name: name for name in eval_dataset}
    return None if eval_dataset is None else ""


def prompt_lengths(parts: Mapping[str, LoaderSpec]) -> dict[str, Mapping[str, int]]:
    """For each dataset name of a run, the number of prompt tokens of each text column."""
    return {
        name: dataset.prompt_lengths
        for part in parts.values()
        for name, dataset in part.datasets.items()
        if dataset.prompt_lengths
    }
