"""A trial's parameters as training arguments, and what is to be done with names that are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ray_st.util.names import did_you_mean
from ray_st.util.number_checks import is_whole

FIXED = ("output_dir", "eval_on", "eval_resources", "ledger", "ray_scope", "resume_only_model")
"""Arguments that belong to the search, not to a trial."""


class SpaceError(ValueError):
    """A name or a value of a search space that cannot be meant."""


def argument_names(args: Any) -> set[str]:
    """Names of the training arguments that a search may set.

    Args:
        args: Training arguments.
    """
    return {field.name for field in dataclasses.fields(args) if field.init} - set(FIXED)


def with_values(args: Any, values: Mapping[str, Any]) -> Any:
    """Training arguments with some of them replaced, completed and checked anew.

    Args:
        args: Training arguments; not changed.
        values: What to replace, by name; other names are passed over.

    Raises:
        SpaceError: If the arguments refuse a value.
    """
    changes = {
        name: _cast(value, getattr(args, name))
        for name, value in values.items()
        if name in argument_names(args)
    }
    if "warmup_ratio" in changes and "warmup_steps" not in changes:
        changes["warmup_steps"] = 0  # completed arguments hold the old ratio there
    try:
        made = dataclasses.replace(args, **changes)
    except (ValueError, TypeError) as error:
        raise SpaceError(f"{changes}: {error}") from error
    return made


def _cast(value: Any, old: Any) -> Any:
    """A whole number where a fraction was drawn for one, as transformers does."""
    if is_whole(old) and isinstance(value, float) and value >= 1:
        return int(value)
    return value


def check_names(
    names: Iterable[str], arguments: Collection[str], read: Collection[str], readers: Collection[str]
) -> None:
    """Refuses names that nothing would use.

    Args:
        names: The names of a space.
        arguments: Names of training arguments.
        read: Names that the readers read.
        readers: What else takes a trial's parameters, such as ``model_init``.

    Raises:
        SpaceError: At the first name that is neither an argument nor read.
    """
    for name in names:
        if name in arguments or name in read:
            continue
        if name in FIXED:
            raise SpaceError(f"hp_space: {name!r} belongs to the search and is the same for all trials.")
        others = " and ".join(readers)
        unread = f", and {others} did not read it" if readers else ""
        raise SpaceError(
            f"hp_space: {name!r} is no training argument{unread}; {did_you_mean(name, [*arguments, *read])}"
        )
