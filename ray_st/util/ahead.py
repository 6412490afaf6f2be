"""Preparing the next piece of work in a thread while the current one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_ahead(prepare: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Iterator[Result]]:
    """The results of a function, in order; within the context, each is made while the one before is used.

    Made for functions that release Python's lock, such as fast tokenizers. At most two results exist at a
    time. The first is made by the caller, and so is the only one: then there is no thread. An error in the
    thread is raised where its result is asked for. Leaving the context, for whatever reason, waits until the
    thread has ended.

    Args:
        prepare: The function; not called twice at the same time.
        items: Its arguments.
    """
    if len(items) < 2:
        yield map(prepare, items)
        return
    with ThreadPoolExecutor(1, "ray_st-ahead") as thread:
        yield _results(prepare, items, thread)


def _results(
    prepare: Callable[[Item], Result], items: Sequence[Item], thread: ThreadPoolExecutor
) -> Iterator[Result]:
    result = prepare(items[0])
    for item in items[1:]:
        coming = thread.submit(prepare, item)
        yield result
        result = coming.result()
    yield result
