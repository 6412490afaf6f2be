"""Datasets that put prompts before their texts, and name themselves, as their rows are read.

The trainer does both by itself; this is for code that calls the documented methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import datasets

from ray_st.data.column_spec import DATASET_NAME_COLUMN, split_columns
from ray_st.data.prompts import prompts_of, refuse_unused

Batch = dict[str, list[Any]]
Rows = Any  # a datasets.Dataset or IterableDataset
Lengths = Callable[[str], int]

_LENGTH = "{column}_prompt_length"


def prompt_batch(
    batch: Batch,
    prompts: str | Mapping[str, str] | None,
    lengths: Mapping[str, int] | int | None,
    dataset_name: str | None,
) -> Batch:
    """Puts prompts before the texts of a batch, and says which dataset it is of.

    Args:
        batch: Values by column; left as it is.
        prompts: One for all columns of texts, or one by column.
        lengths: Tokens of the prompt, or of each prompt by its text; None for no ``COLUMN_prompt_length``.
        dataset_name: Value of the column ``dataset_name``; None for no such column.
    """
    rows = len(next(iter(batch.values()), []))
    if not rows:
        return batch
    result = dict(batch)
    of_column = dict.fromkeys(batch, prompts) if isinstance(prompts, str) else prompts or {}
    for column, prompt in of_column.items():
        if column not in batch or not isinstance(batch[column][0], str):
            continue
        result[column] = [f"{prompt}{text}" for text in batch[column]]
        if lengths is not None:
            length = lengths if isinstance(lengths, int) else lengths[prompt]
            result[_LENGTH.format(column=column)] = [length] * rows
    if dataset_name:
        result[DATASET_NAME_COLUMN] = [dataset_name] * rows
    return result


def prompt_datasets(
    rows: Rows | Mapping[str, Rows] | None,
    prompts: Any,
    dataset_name: str | None,
    names_wanted: bool,
    count: Lengths | None,
) -> Any:
    """Datasets whose rows come with prompts and, where losses or prompts go by it, the name of their dataset.

    Args:
        rows: A dataset, several by name, or None, which stays None.
        prompts: As the training arguments have them, in one of their four forms.
        dataset_name: Name of a single dataset, if it has one.
        names_wanted: Whether several datasets are to say their names.
        count: Tokens of a prompt; None where nobody needs to know.

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
    refuse_unused(prompts, used, names)
    says = names_wanted or bool(set(prompts if isinstance(prompts, Mapping) else ()) & set(names))
    parts = {
        name: _prompted(part, prompts, name, names, name if says else None, count)
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
    """The documented transform.

    See :meth:`ray_st.SentenceTransformerTrainer.add_prompts_or_dataset_name_transform`.
    """
    batch = batch if transform is None else transform(batch)
    return prompt_batch(batch, prompts, prompt_lengths, dataset_name)


def _prompted(
    rows: Rows, prompts: Any, name: str | None, names: list[str], said: str | None, count: Lengths | None
) -> Rows:
    columns = split_columns(_columns(rows))
    chosen = prompts_of(prompts, columns, name, names)
    if not chosen and said is None:
        return rows
    lengths = None if count is None else {prompt: count(prompt) for prompt in chosen.values()}
    options: dict[str, Any] = {"prompts": chosen, "prompt_lengths": lengths, "dataset_name": said}
    if isinstance(rows, datasets.IterableDataset):
        transform = partial(prompt_transform, **options)
        return rows.map(transform, batched=True, features=_features(rows, chosen if lengths else {}, said))
    before = rows.format["format_kwargs"].get("transform")
    if getattr(before, "func", None) is prompt_transform:
        return rows  # it has its prompts
    return rows.with_transform(partial(prompt_transform, transform=before, **options))


def _columns(rows: Rows) -> list[str]:
    return list(rows.column_names or next(iter(rows), {}))


def _features(
    rows: datasets.IterableDataset, prompts: Mapping[str, str], said: str | None
) -> datasets.Features | None:
    """The columns of a stream with those that are added; None if it does not know its own."""
    if rows.features is None:
        return None
    more = {_LENGTH.format(column=column): datasets.Value("int64") for column in prompts}
    name = {DATASET_NAME_COLUMN: datasets.Value("string")} if said else {}
    return datasets.Features({**rows.features, **more, **name})
