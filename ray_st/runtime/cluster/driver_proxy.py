"""A driver-side object whose methods can be called from a process of the cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ray.util.queue import Queue

_LIGHT = {"num_cpus": 0}


class DriverProxyError(ValueError):
    """A method raised an error; the driver re-raises the original error when the run has ended."""


class DriverProxy:
    """Calls methods of the driver's object and waits for the results. Picklable; one caller at a time.

    Args:
        asked: Queue of calls to the driver.
        answered: Queue of results from the driver.
    """

    def __init__(self, asked: Queue, answered: Queue) -> None:
        self._asked, self._answered = asked, answered

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Calls a method on the driver and returns its result.

        Args:
            method: Name of the method.
            *arguments: Its arguments.

        Raises:
            DriverProxyError: If the method raised an error.
        """
        number = uuid.uuid4().hex
        self._asked.put((number, method, arguments))
        answer: tuple[str, bool, Any] = ("", False, None)
        while answer[0] != number:  # skips results that a lost process never fetched
            answer = self._answered.get()
        _, succeeded, value = answer
        if not succeeded:
            raise DriverProxyError(f"{method}, which the run calls on the driver, raised an error there.")
        return value


@contextmanager
def proxied(target: object) -> Iterator[DriverProxy]:
    """Lets processes of the cluster call an object's methods, which run here, in a separate thread.

    Args:
        target: Its methods take and return picklable values. An error that one raises is re-raised here on
            exit.
    """
    asked, answered = Queue(actor_options=_LIGHT), Queue(actor_options=_LIGHT)
    with ThreadPoolExecutor(max_workers=1) as threads:
        serving = threads.submit(_serve, target, asked, answered)
        try:
            yield DriverProxy(asked, answered)
        finally:
            asked.put(None)
            serving.result()
            for queue in (asked, answered):
                queue.shutdown()


def _serve(target: object, asked: Queue, answered: Queue) -> None:
    while (call := asked.get()) is not None:
        number, method, arguments = call
        answer: tuple[str, bool, Any] = (number, False, None)
        try:
            answer = (number, True, getattr(target, method)(*arguments))
        finally:
            answered.put(answer)
