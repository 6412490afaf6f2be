"""From the user's datasets to the parts of a run, checked on the driver before anything is started."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import datasets

from ray_st.data.columns import ColumnSpec, check_columns, check_rows, check_types, split_columns
from ray_st.data.encode import Encoder, Encoding
from ray_st.training.run import DataPart
from ray_st.training.step import LossOrLosses, losses_of


def columns_of(source: Any, name: str) -> ColumnSpec:
    """The columns of a dataset.

    Args:
        source: A :class:`datasets.Dataset` or a Ray Dataset.
        name: What to call it in errors.

    Raises:
        ValueError: If it is something else, or a text column does not hold strings.
    """
    if isinstance(source, datasets.Dataset):
        schema = source.features.arrow_schema
    elif hasattr(source, "map_batches") and hasattr(
        source, "schema"
    ):  # a Ray Dataset; only runtime/ knows Ray
        schema = source.schema()
    else:
        raise ValueError(f"{name} must be a datasets.Dataset or a Ray Dataset; got {type(source).__name__}.")
    columns = split_columns(schema.names)
    check_types(columns, dict(zip(schema.names, schema.types, strict=True)), name)
    return columns


def prompts_of(prompts: Any, columns: ColumnSpec, name: str) -> dict[str, str]:
    """The prompt of each text column of a dataset.

    Args:
        prompts: None, one prompt for all columns, or one for each column name.
        columns: The dataset's columns.
        name: What to call the dataset in errors.

    Raises:
        ValueError: If a prompt is for a column that the dataset does not have.
    """
    if not prompts:
        return {}
    if isinstance(prompts, str):
        return dict.fromkeys(columns.texts, prompts)
    unknown = [column for column in prompts if column not in columns.texts]
    if unknown:
        raise ValueError(
            f"args.prompts names columns {unknown}, which {name} does not have as texts; it has {list(columns.texts)}."
        )
    return dict(prompts)


def make_part(
    source: Any,
    name: str,
    loss: LossOrLosses,
    encoder: Encoder | None,
    prompts: Any,
    make_sampler: Callable[[Any], Any],
    epochs: Callable[[int], int] = lambda rows: 1,
    rows_needed: int = 1,
) -> DataPart:
    """One dataset of a run, refused if its loss cannot use it.

    Args:
        source: A :class:`datasets.Dataset` or a Ray Dataset.
        name: What to call it in errors.
        loss: The loss, or one for each dataset.
        encoder: Turns texts into token ids; None where rows stay texts.
        prompts: As in the training arguments.
        make_sampler: Makes the batch sampler from the rows' keys.
        epochs: How many epochs will at most be planned, as a function of the number of rows.
        rows_needed: Least number of rows.

    Raises:
        ValueError: If the dataset does not fit.
    """
    columns = columns_of(source, name)
    for part in losses_of(loss).values():
        check_columns(columns, part, name)
    if isinstance(source, datasets.Dataset):
        check_rows(len(source), rows_needed, name)
    encoding = Encoding(columns, encoder, prompts=prompts_of(prompts, columns, name))
    return DataPart(name, source, encoding, make_sampler, epochs, rows_needed)


def epochs_needed(args: Any, global_batch: int) -> Callable[[int], int]:
    """How many epochs a run needs at most, as a function of the number of rows.

    Args:
        args: Training arguments.
        global_batch: Rows of a full batch of the whole cluster.
    """

    def epochs(rows: int) -> int:
        if args.max_steps <= 0:
            return math.ceil(args.num_train_epochs)
        return math.ceil(args.max_steps * args.gradient_accumulation_steps / max(rows // global_batch, 1))

    return epochs


def named(eval_dataset: Any) -> Mapping[str, Any]:
    """Evaluation datasets by name; a single one has the name ""."""
    if eval_dataset is None:
        return {}
    return eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}


def names_of(eval_dataset: Any) -> Any:
    """What stands for evaluation datasets on a worker, where they are feeds: names in the same form."""
    if isinstance(eval_dataset, dict):
        return {name: name for name in eval_dataset}
    return None if eval_dataset is None else ""
