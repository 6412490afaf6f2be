"""Which failures of workers are worth a restart, and what they come from."""

from __future__ import annotations

from ray.exceptions import RayActorError

from ray_st.util.endings import HangError, Moved, Why

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


def cause_of(error: Exception) -> str:
    """Why a worker was lost: one of :data:`ray_st.runtime.supervision.run_monitor.CAUSES`.

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
