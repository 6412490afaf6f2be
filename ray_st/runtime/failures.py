"""Which failures of workers are worth a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

REPEATABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    AssertionError,
    NotImplementedError,
)
"""Errors of the program or its input: a restarted worker would meet them again."""


class RunStopped(RuntimeError):
    """A worker met an error that a restart would not mend. The text holds the worker's traceback."""


class StopAtRepeatableErrors(UserCallback):
    """Ends a run at once where Ray Train would restart its workers only to fail in the same way.

    Ray Train retries whatever a worker raises; a lost process or node, or a broken connection, is still retried.
    """

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raises, which ends the run, if any rank's error is repeatable."""
        for rank, error in sorted(worker_exceptions.items()):
            # Ray wraps what a worker raises, and has no public way to unwrap it.
            cause = getattr(error, "_base_exc", error)
            if isinstance(cause, REPEATABLE):
                trace = getattr(error, "_traceback_str", "")
                raise RunStopped(f"rank {rank}: {type(cause).__name__}: {cause}\n{trace}")
