"""Which worker failures are worth a restart, and their causes."""

from __future__ import annotations

from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from ray_st.util.endings import HangError, Moved, Why


class RunStopped(RuntimeError):
    """A worker raised an error that a restart would not fix. The message holds the worker's traceback."""


class Resized(RayActorError):
    """All ranks left after a checkpoint, so that Ray Train starts another number of workers.

    Ray Train counts the errors of preempted actors, and no others, apart from failures.

    Args:
        message: Message for people.
    """

    def __init__(self, message: str) -> None:
        super().__init__(error_msg=message, preempted=True)


def original(error: Exception) -> BaseException:
    """A worker's exception without Ray's wrapper, which Ray has no public way to remove."""
    return error._base_exc if isinstance(error, UserExceptionWithTraceback) else error


def cause_of(error: Exception) -> str:
    """Why a worker was lost: one of :data:`ray_st.runtime.supervision.run_monitor.CAUSES`.

    Args:
        error: The error that Ray Train reports.
    """
    raised = original(error)
    lost = raised.health_check_failure if isinstance(raised, WorkerHealthCheckFailedError) else raised
    if isinstance(lost, Resized):
        return "resized"
    if isinstance(lost, RayActorError):
        if lost.preempted:
            return "preempted"
        return "node" if "its node" in str(lost) else "process"  # Ray offers no other way to tell
    if isinstance(raised, Moved):
        return "preempted" if raised.why is Why.PREEMPTED else "moved"
    return "hang" if isinstance(raised, HangError) else "error"
