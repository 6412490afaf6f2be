"""Converts the user's datasets to specs, with checks on the driver before anything is started."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch import nn

from ray_st.data.column_spec import (
    ColumnSpec,
    LossNeeds,
    check_columns,
    check_rows,
    check_types,
    split_columns,
)
from ray_st.data.encoding import Encoder, Encoding
from ray_st.data.routes import Route
from ray_st.data.sources import Source, as_source
from ray_st.training.data.specs import DatasetSpec, LoaderSpec
from ray_st.training.family import Inputs, each_column
from ray_st.training.strategies.step_module import LossOrLosses


def opened(value: Any, label: str, rows: int | None = None) -> Any:
    """Opens a user's dataset as a source that a run can read.

    Args:
        value: A Ray Dataset or a :class:`datasets.Dataset`, which are returned unchanged, or anything that
            :func:`ray_st.data.sources.as_source` opens: paths, tables, columns, rows, streams, queries.
        label: Its name in error messages.
        rows: Maximum number of rows needed from a stream; None for all.

    Raises:
        ValueError: If it cannot be read.
    """
    if isinstance(value, datasets.Dataset) or is_ray_dataset(value):
        return value
    return as_source(value, label, rows=rows if isinstance(value, datasets.IterableDataset) else None)


def is_ray_dataset(value: Any) -> bool:
    """Whether a value is a Ray Dataset; decided by its methods, since only runtime/ imports Ray."""
    return hasattr(value, "map_batches") and hasattr(value, "iter_internal_ref_bundles")


def columns_of(source: Any, label: str) -> ColumnSpec:
    """The columns of a dataset.

    Args:
        source: From :func:`opened`.
        label: Its name in error messages.

    Raises:
        ValueError: If a text column does not hold strings.
    """
    if isinstance(source, Source):
        types = dict(source.columns())
    else:
        schema = source.features.arrow_schema if isinstance(source, datasets.Dataset) else source.schema()
        types = dict(zip(schema.names, schema.types, strict=True))
    columns = split_columns(list(types))
    check_types(columns, types, label)
    return columns


def is_mixture(value: Any) -> bool:
    """Whether a value holds several named datasets, rather than the columns of one.

    Args:
        value: A dict of datasets, a :class:`datasets.DatasetDict`, a dict of columns, or a dataset.
    """
    if not isinstance(value, Mapping):
        return False
    return not all(
        isinstance(part, (list, tuple, np.ndarray)) and not _holds_rows(part) for part in value.values()
    )


def _holds_rows(values: Any) -> bool:
    return len(values) > 0 and isinstance(values[0], Mapping)


def _no_routes(columns: ColumnSpec) -> Mapping[str, Route]:
    return {}


def make_part(
    source: Any,
    label: str,
    loss: nn.Module,
    encoder: Encoder | None,
    prompts: Callable[[ColumnSpec], dict[str, str]],
    batch_size: int,
    make_sampler: Callable[[Any, int], Any],
    routes: Callable[[ColumnSpec], Mapping[str, Route]] = _no_routes,
    inputs: Callable[[Sequence[str]], Inputs] = each_column,
) -> DatasetSpec:
    """Creates the spec of one dataset; raises if its loss cannot use it.

    Args:
        source: From :func:`opened`.
        label: Its name in error messages.
        loss: Its loss.
        encoder: Converts texts to token ids; None if rows stay texts.
        prompts: Returns the prompt of each text column.
        batch_size: Rows of a global batch.
        make_sampler: Creates the batch sampler from the rows' keys and a seed.
        routes: Returns the routes of the text columns that use a separate route of the model.
        inputs: Returns the inputs of a row; see :class:`ray_st.training.family.Family`.

    Raises:
        ValueError: If the dataset does not fit the loss.
    """
    columns = columns_of(source, label)
    columns = check_columns(columns, loss, label)
    if isinstance(source, datasets.Dataset):
        check_rows(len(source), 1, label)
    encoding = Encoding(
        columns, encoder, prompts=prompts(columns), routes=routes(columns), inputs=inputs(columns.texts)
    )
    alone = {column: text for column, text in encoding.prompts.items() if column in encoding.made_of}
    encoders = ((column, prompt, encoding.encoder_of(column)) for column, prompt in alone.items())
    lengths = {column: int(one.prompt_length(prompt)) for column, prompt, one in encoders if one is not None}
    return DatasetSpec(label, source, encoding, batch_size, make_sampler, lengths)


def loss_for(loss: LossOrLosses, dataset: str, label: str) -> nn.Module:
    """The loss of a dataset.

    Args:
        loss: One loss for all, or one for each dataset name.
        dataset: The dataset's name.
        label: Its name in error messages.

    Raises:
        ValueError: If losses are given by dataset name and there is none for this dataset.
    """
    if not isinstance(loss, Mapping):
        return loss
    if dataset not in loss:
        name = repr(dataset) if dataset else "a single dataset, which has no name"
        raise ValueError(f"{label}: loss is given for the datasets {list(loss)}, but not for {name}.")
    return loss[dataset]


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


def epochs_needed(args: Any, global_batch: int) -> Callable[[int], int]:
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


def named(dataset: Any) -> Mapping[str, Any]:
    """Datasets by name; a single one has the name ""."""
    if dataset is None:
        return {}
    return dataset if is_mixture(dataset) else {"": dataset}


def names_of(eval_dataset: Any) -> Any:
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
