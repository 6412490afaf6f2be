"""The actor that hands runs to a group of workers.

It imports nothing heavy, so that its process starts quickly: what it hands on stays pickled.
"""

from __future__ import annotations

import threading
from typing import Any

import ray

from ray_st.runtime.cluster.handles import PickledRef

_POLL_S = 20.0
"""Seconds after which who waits for a run, or for its result, asks again."""


class JobDesk:
    """Hands runs to a group's workers, and takes what they return; each call has a thread of its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._run: PickledRef[Any] | None = None
        self._job: list[ray.ObjectRef[Any]] = []
        self._result: bytes | None = None
        self._number, self._closed = 0, False

    def give(self, run: PickledRef[Any], job: list[ray.ObjectRef[Any]]) -> None:
        """Has the workers carry out a run; they have carried out the one before."""
        with self._changed:
            self._run, self._job, self._result = run, job, None
            self._number += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Sends the workers home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def next(self, done: int) -> tuple[int, PickledRef[Any] | None, list[ray.ObjectRef[Any]]] | None:
        """The newest run's number, the run and its job; None if there will be no other.

        Args:
            done: The number of the last run that the caller has carried out; waits a while for a later one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number > done or self._closed, _POLL_S)
            return None if self._closed else (self._number, self._run, self._job)

    def finish(self, result: bytes) -> None:
        """Takes what the first worker returned, pickled."""
        with self._changed:
            self._result = result
            self._changed.notify_all()

    def result(self) -> bytes | None:
        """What the first worker returned; waits for a while, and returns None if it has not."""
        with self._changed:
            self._changed.wait_for(lambda: self._result is not None, _POLL_S)
            return self._result
