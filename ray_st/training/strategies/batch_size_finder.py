"""Batches that fit into memory: what says that one does not, and the search for one that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils.memory import should_reduce_batch_size

from ray_st.data.column_spec import ColumnError
from ray_st.util.events import notes

T = TypeVar("T")


class BatchTooLarge(ValueError):
    """A step ran out of memory where the batch size is being searched for (``auto_find_batch_size``)."""


def too_large(error: Exception, args: Any) -> BatchTooLarge | None:
    """The error to raise in place of another where the batch size is being searched for.

    Args:
        error: What a step raised.
        args: Training arguments.

    Returns:
        None if the batch size is fixed, or the step did not run out of memory.
    """
    if not args.auto_find_batch_size or not should_reduce_batch_size(error):
        return None
    return BatchTooLarge(f"{args.per_device_train_batch_size} rows a worker are too many: {error}")


def with_fitting_batches(args: Any, attempt: Callable[[], T]) -> T:
    """Trains; where a batch does not fit into memory, begins again with half the rows a worker.

    Args:
        args: Training arguments; their batch size is changed for the attempts and put back at the end.
        attempt: Trains with the arguments as they are.

    Raises:
        ValueError: If the batch size is not the workers' to choose.
        BatchTooLarge: If not even one row fits (as an error of the run, on a cluster).
    """
    if not args.auto_find_batch_size:
        return attempt()
    for fixed in ("global_train_batch_size", "dataset_batch_sizes"):
        if getattr(args, fixed):
            raise ValueError(
                f"auto_find_batch_size searches for a batch size, and {fixed} fixes it. Leave one out."
            )
    given = args.per_device_train_batch_size
    too_many: Exception | None = None
    try:
        while True:
            try:
                return attempt()
            except ColumnError as error:  # the loss cannot use so few rows
                raise too_many or error from error
            except (BatchTooLarge, RuntimeError) as error:
                from_cluster = f"{type(error).__name__}: {error}"  # from there it comes as text
                if BatchTooLarge.__name__ not in from_cluster or args.per_device_train_batch_size == 1:
                    raise
                too_many = error
                args.per_device_train_batch_size //= 2
                notes.info(f"out of memory; trying {args.per_device_train_batch_size} rows a worker")
    finally:
        args.per_device_train_batch_size = given
