"""Which prompt is prepended to which text, resolved from the four accepted forms of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_st.data.column_spec import ColumnSpec, check_names

Prompts = str | Mapping[str, str | Mapping[str, str]]
"""A prompt for everything, by column, by dataset, or by dataset and column: ``args.prompts``."""


def prompts_of(
    prompts: Prompts | None, columns: ColumnSpec, dataset: str | None, datasets: Sequence[str] = ()
) -> dict[str, str]:
    """The prompt of each text column of a dataset.

    Args:
        prompts: None; one prompt for everything; a prompt by column name; a prompt by dataset name; or, by
            dataset name, a prompt by column name.
        columns: The dataset's columns.
        dataset: Its name among several, or None for a single dataset.
        datasets: Names of all datasets, if there are several.

    Raises:
        ValueError: If prompts by dataset name are given for a single dataset, or if a name matches neither a
            dataset nor a text column.
    """
    if not prompts:
        return {}
    if isinstance(prompts, str):
        return dict.fromkeys(columns.texts, prompts)
    nested = [name for name, prompt in prompts.items() if isinstance(prompt, dict)]
    if dataset is None and nested:
        raise ValueError(
            f"args.prompts maps {nested} to prompts by column, as for several named datasets, but there is a "
            f"single dataset, which has no name. Give the prompts by column: {list(columns.texts)}."
        )
    if dataset is not None and set(prompts) & set(datasets):
        check_names("prompts", set(prompts) - set(datasets), "datasets", datasets)
        return prompts_of(prompts.get(dataset), columns, None)
    check_names(
        "prompts",
        set(prompts) - set(columns.texts) if dataset is None else set(),
        "text columns",
        columns.texts,
    )
    by_column: Mapping[str, Any] = prompts
    return {column: by_column[column] for column in columns.texts if column in by_column}


def prompt_of_pairs(
    prompts: Prompts | None, columns: ColumnSpec, dataset: str | None, datasets: Sequence[str] = ()
) -> dict[str, str]:
    """The prompt of a dataset whose rows become pairs of texts: it is put before the first text of each pair.

    Args:
        prompts: None, one prompt, or a prompt by dataset name.
        columns: The dataset's columns.
        dataset: Its name among several, or None for a single dataset.
        datasets: Names of all datasets, if there are several.

    Raises:
        ValueError: If prompts are given by column.
    """
    nested = isinstance(prompts, Mapping) and any(isinstance(each, Mapping) for each in prompts.values())
    if nested or (isinstance(prompts, Mapping) and not set(prompts) & set(datasets)):
        raise ValueError(
            "args.prompts of a reranker is one text, or one for each dataset by its name: the columns of a "
            f"row become pairs, so that there are no prompts by column; got {prompts!r}."
        )
    found = prompts_of(prompts, columns, dataset, datasets)
    query = columns.texts[0]
    return {query: found[query]} if query in found else {}


def check_prompt_names(prompts: Prompts | None, used: Sequence[str], datasets: Sequence[str]) -> None:
    """Rejects prompts for columns that no dataset has.

    Args:
        prompts: As given in the arguments.
        used: Text columns of all datasets.
        datasets: Names of all datasets.
    """
    if isinstance(prompts, dict) and not set(prompts) & set(datasets):
        check_names("prompts", set(prompts) - set(used), "datasets or text columns", [*datasets, *used])
