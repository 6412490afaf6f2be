"""An object of the driver whose methods a process of the cluster can call."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ray.util.queue import Queue

_LIGHT = {"num_cpus": 0}


class DriverProxyError(ValueError):
    """A method raised; the driver raises what it raised when the run has ended."""


class DriverProxy:
    """Calls methods of the driver's object and waits for what they return. Picklable; one caller at a time.

    Args:
        asked: Takes the calls there.
        answered: Takes the results back.
    """

    def __init__(self, asked: Queue, answered: Queue) -> None:
        self._asked, self._answered = asked, answered

    def __call__(self, method: str, *arguments: Any) -> Any:
        """What a method returns.

        Args:
            method: Its name.
            *arguments: Its arguments.

        Raises:
            DriverProxyError: If it raised.
        """
        number = uuid.uuid4().hex
        self._asked.put((number, method, arguments))
        answer: tuple[str, bool, Any] = ("", False, None)
        while answer[0] != number:  # an answer may be left that a lost process did not fetch
            answer = self._answered.get()
        _, succeeded, value = answer
        if not succeeded:
            raise DriverProxyError(f"{method}, which the run calls on the driver, raised an error there.")
        return value


@contextmanager
def proxied(target: Any) -> Iterator[DriverProxy]:
    """Lets processes of the cluster call an object's methods, which run here, in a thread of their own.

    Args:
        target: Its methods take and return what can be pickled. What one raises is raised here at the end,
            too.
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


def _serve(target: Any, asked: Queue, answered: Queue) -> None:
    while (call := asked.get()) is not None:
        number, method, arguments = call
        answer: tuple[str, bool, Any] = (number, False, None)
        try:
            answer = (number, True, getattr(target, method)(*arguments))
        finally:
            answered.put(answer)
