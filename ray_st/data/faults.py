"""Unusable rows: a description of what is wrong, and the error that names the first one."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 60


class RowError(ValueError):
    """A row of a dataset cannot be used."""


def described(value: object) -> str:
    """A value and its type, truncated to a readable length."""
    if isinstance(value, str) and not value.strip():
        return f"an empty text ({value!r})"
    shown = repr(value)
    return f"{shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'} ({type(value).__name__})"


def check_faults(faults: Sequence[tuple[int, str]], rows: int, dataset: str) -> None:
    """Raises an error if any row is unusable.

    Args:
        faults: The number of each unusable row, in ascending order, and what is wrong with it.
        rows: Number of all rows.
        dataset: Name of the dataset in error messages.

    Raises:
        RowError: Naming the first unusable row, its column and value, and the number of unusable rows.
    """
    if faults:
        row, reason = faults[0]
        raise RowError(
            f"{dataset}: row {row}, {reason}. {len(faults)} of {rows} rows cannot be used; correct or remove "
            'them, or set bad_rows="skip" in the arguments to leave them out.'
        )
