"""A trial's hyperparameters as training arguments, and the check of names that are not arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from transformers import TrainingArguments

from ray_st.util.names import did_you_mean
from ray_st.util.value_checks import is_whole

Args = TypeVar("Args", bound=TrainingArguments)

FIXED = (
    *("output_dir", "eval_on", "eval_resources", "ledger", "scratch_dir", "token_cache", "token_cache_bytes"),
    *("ray_scope", "resume_only_model"),
)
"""Arguments of the search, which no trial can set."""


class SpaceError(ValueError):
    """A name or a value of a search space is invalid."""


def argument_names(args: TrainingArguments) -> set[str]:
    """Names of the training arguments that a search may set.

    Args:
        args: Training arguments.
    """
    return {field.name for field in dataclasses.fields(args) if field.init} - set(FIXED)


def with_values(args: Args, values: Mapping[str, Any]) -> Args:
    """A copy of the training arguments with some replaced, completed and checked again.

    Args:
        args: Training arguments.
        values: What to replace, by name; other names are ignored.

    Raises:
        SpaceError: If the arguments reject a value.
    """
    names, before = argument_names(args), vars(args)
    changes: dict[str, Any] = {
        name: _cast(value, before[name]) for name, value in values.items() if name in names
    }
    if "warmup_ratio" in changes and "warmup_steps" not in changes:
        changes["warmup_steps"] = 0  # completed arguments hold the old ratio there
    try:
        return dataclasses.replace(args, **changes)
    except (ValueError, TypeError) as error:
        raise SpaceError(f"{changes}: {error}") from error


def _cast(value: object, old: object) -> object:
    """Converts a float drawn for an integer argument, as transformers does."""
    if is_whole(old) and isinstance(value, float) and value >= 1:
        return int(value)
    return value


def check_names(
    names: Iterable[str],
    arguments: Collection[str],
    read: Collection[str],
    readers: Collection[str],
    where: str = "hp_space",
) -> None:
    """Checks that something uses each name.

    Args:
        names: The names of a space.
        arguments: Names of training arguments.
        read: Names that the readers read.
        readers: What else is given a trial's hyperparameters, such as ``model_init``.
        where: Where the names come from, for errors.

    Raises:
        SpaceError: At the first name that is neither an argument nor read.
    """
    for name in names:
        if name in arguments or name in read:
            continue
        if name in FIXED:
            raise SpaceError(f"{where}: {name!r} belongs to the search and is the same for all trials.")
        others = " and ".join(readers)
        unread = f", and {others} did not read it" if readers else ""
        raise SpaceError(
            f"{where}: {name!r} is not a training argument{unread}; {did_you_mean(name, [*arguments, *read])}"
        )
