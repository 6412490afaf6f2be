"""Datasets that add prompts and the dataset name as their rows are read.

The trainer does both itself; this is for code that calls the documented methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import datasets

from ray_st.data.column_spec import DATASET_NAME_COLUMN, split_columns
from ray_st.data.prompts import Prompts, check_prompt_names, prompts_of

Batch = dict[str, list[Any]]
Rows = Any  # a datasets.Dataset or IterableDataset
Lengths = Callable[[str], int]

_LENGTH = "{column}_prompt_length"


def prompt_datasets(
    rows: Rows | Mapping[str, Rows] | None,
    prompts: Prompts | None,
    dataset_name: str | None,
    names_wanted: bool,
    count: Lengths | None,
) -> Any:
    """Adds prompts and, if losses or prompts depend on it, the dataset name to the rows of datasets.

    Args:
        rows: A dataset, several by name, or None, which is returned unchanged.
        prompts: Prompts in one of the four forms that the training arguments accept.
        dataset_name: Name of a single dataset, if it has one.
        names_wanted: Whether to add the dataset names if there are several datasets.
        count: Counts the tokens of a prompt; None if the count is not needed.

    Raises:
        ValueError: If prompts by dataset are given for a dataset without a name, or name no dataset or
            column.
    """
    if rows is None:
        return None
    if not isinstance(rows, Mapping):
        names = [] if dataset_name is None else [dataset_name]
        return _prompted(rows, prompts, dataset_name, names, dataset_name, count)
    names = list(rows)
    used = [column for part in rows.values() for column in split_columns(_columns(part)).texts]
    check_prompt_names(prompts, used, names)
    add_names = names_wanted or bool(set(prompts if isinstance(prompts, Mapping) else ()) & set(names))
    parts = {
        name: _prompted(part, prompts, name, names, name if add_names else None, count)
        for name, part in rows.items()
    }
    return datasets.DatasetDict(parts) if isinstance(rows, datasets.DatasetDict) else parts


def prompt_transform(
    batch: Batch,
    prompts: str | Mapping[str, str] | None = None,
    prompt_lengths: Mapping[str, int] | int | None = None,
    dataset_name: str | None = None,
    transform: Callable[[Batch], Batch] | None = None,
    **kwargs: Any,
) -> Batch:
    """The documented transform: adds prompts to the texts of a batch, and the name of its dataset.

    See :meth:`ray_st.SentenceTransformerTrainer.add_prompts_or_dataset_name_transform`.

    Args:
        batch: Values by column; not modified.
        prompts: One for all columns of texts, or one by column.
        prompt_lengths: Token count of the prompt, or of each prompt by its text; None for no
            ``COLUMN_prompt_length``.
        dataset_name: Value of the column ``dataset_name``; None for no such column.
        transform: Applied to the batch first.
        kwargs: Ignored.
    """
    batch = batch if transform is None else transform(batch)
    rows = len(next(iter(batch.values()), []))
    if not rows:
        return batch
    result = dict(batch)
    of_column = dict.fromkeys(batch, prompts) if isinstance(prompts, str) else prompts or {}
    for column, prompt in of_column.items():
        if column not in batch or not isinstance(batch[column][0], str):
            continue
        result[column] = [f"{prompt}{text}" for text in batch[column]]
        if prompt_lengths is not None:
            length = prompt_lengths if isinstance(prompt_lengths, int) else prompt_lengths[prompt]
            result[_LENGTH.format(column=column)] = [length] * rows
    if dataset_name:
        result[DATASET_NAME_COLUMN] = [dataset_name] * rows
    return result


def _prompted(
    rows: Rows,
    prompts: Prompts | None,
    name: str | None,
    names: list[str],
    added_name: str | None,
    count: Lengths | None,
) -> Rows:
    columns = split_columns(_columns(rows))
    chosen = prompts_of(prompts, columns, name, names)
    if not chosen and added_name is None:
        return rows
    lengths = None if count is None else {prompt: count(prompt) for prompt in chosen.values()}
    options: dict[str, Any] = {"prompts": chosen, "prompt_lengths": lengths, "dataset_name": added_name}
    if isinstance(rows, datasets.IterableDataset):
        transform = partial(prompt_transform, **options)
        return rows.map(
            transform, batched=True, features=_features(rows, chosen if lengths else {}, added_name)
        )
    before = rows.format["format_kwargs"].get("transform")
    if isinstance(before, partial) and before.func is prompt_transform:
        return rows  # prompts were already added
    return rows.with_transform(partial(prompt_transform, transform=before, **options))


def _columns(rows: Rows) -> list[str]:
    return list(rows.column_names or next(iter(rows), {}))


def _features(
    rows: datasets.IterableDataset, prompts: Mapping[str, str], added_name: str | None
) -> datasets.Features | None:
    """The features of a stream including the added columns; None if its own are unknown."""
    if rows.features is None:
        return None
    more = {_LENGTH.format(column=column): datasets.Value("int64") for column in prompts}
    name = {DATASET_NAME_COLUMN: datasets.Value("string")} if added_name else {}
    return datasets.Features({**rows.features, **more, **name})
