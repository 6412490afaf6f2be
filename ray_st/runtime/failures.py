"""Which failures of workers are worth a restart, and what they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayActorError
from ray.train import UserCallback

from ray_st.training.stopping import Moved, Why
from ray_st.training.watchdog import HangError
from ray_st.util.endings import Interrupted

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
        """Raises, which ends the run, if any rank's error is repeatable, or the run was told to stop."""
        for rank, error in sorted(worker_exceptions.items()):
            # Ray wraps what a worker raises, and has no public way to unwrap it.
            cause = getattr(error, "_base_exc", error)
            if isinstance(cause, Interrupted):
                raise Interrupted(str(cause))
            if isinstance(cause, REPEATABLE):
                trace = getattr(error, "_traceback_str", "")
                raise RunStopped(f"rank {rank}: {type(cause).__name__}: {cause}\n{trace}")


def cause_of(error: Exception) -> str:
    """Why a worker was lost: one of :data:`ray_st.runtime.tower.CAUSES`.

    Args:
        error: What Ray Train says of it.
    """
    error = getattr(error, "_base_exc", error)
    lost = getattr(error, "health_check_failure", error)
    if isinstance(lost, RayActorError):
        if lost.preempted:
            return "preempted"
        return "node" if "its node" in str(lost) else "process"  # Ray has no other way to tell
    if isinstance(error, Moved):
        return "preempted" if error.why is Why.PREEMPTED else "moved"
    return "hang" if isinstance(error, HangError) else "error"
