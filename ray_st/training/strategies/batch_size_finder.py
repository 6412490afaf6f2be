"""Batches that fit into memory: detecting one that does not, and searching for a size that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate.utils.memory import should_reduce_batch_size

from ray_st.data.column_spec import ColumnError
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes

T = TypeVar("T")


class BatchTooLarge(ValueError):
    """A step ran out of memory during a batch size search (``auto_find_batch_size``)."""


def too_large(error: Exception, args: SentenceTransformerTrainingArguments) -> BatchTooLarge | None:
    """The error to raise instead of another one during a batch size search.

    Args:
        error: What a step raised.
        args: Training arguments.

    Returns:
        None if the batch size is fixed, or the step did not run out of memory.
    """
    if not args.auto_find_batch_size or not should_reduce_batch_size(error):
        return None
    return BatchTooLarge(f"{args.per_device_train_batch_size} rows a worker are too many: {error}")


def with_fitting_batches(args: SentenceTransformerTrainingArguments, attempt: Callable[[], T]) -> T:
    """Trains; if a batch does not fit into memory, starts over with half the rows per worker.

    Args:
        args: Training arguments; their batch size is changed for the attempts and restored at the end.
        attempt: Trains with the current arguments.

    Raises:
        ValueError: If the batch size cannot be chosen by the workers.
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
                from_cluster = f"{type(error).__name__}: {error}"  # errors from the cluster arrive as text
                if BatchTooLarge.__name__ not in from_cluster or args.per_device_train_batch_size == 1:
                    raise
                too_many = error
                args.per_device_train_batch_size //= 2
                notes.info(f"out of memory; trying {args.per_device_train_batch_size} rows a worker")
    finally:
        args.per_device_train_batch_size = given
