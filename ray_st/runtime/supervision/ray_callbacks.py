"""What Ray Train calls at the turns of a run.

Its controller loads these before it starts a worker, so nothing here imports torch or transformers.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback
from ray.train.v2._internal.execution.callback import WorkerCallback

from ray_st.runtime.supervision.failures import REPEATABLE, RunStopped, cause_of
from ray_st.util.endings import Interrupted, LeaseLost, StopRequest, Why

wish = StopRequest()
"""Of this worker's process: signal handlers know of nothing else."""


class StopAtRepeatableErrors(UserCallback):
    """Ends a run at once where Ray Train would restart its workers only to fail in the same way.

    Ray Train retries whatever a worker raises; a lost process or node, or a broken connection, is still
    retried.
    """

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raises, which ends the run, if any rank's error is repeatable, or the run was told to stop."""
        for rank, error in sorted(worker_exceptions.items()):
            # Ray wraps what a worker raises, and has no public way to unwrap it.
            cause = getattr(error, "_base_exc", error)
            if isinstance(cause, (Interrupted, LeaseLost)):
                raise type(cause)(str(cause))
            if isinstance(cause, REPEATABLE):
                trace = getattr(error, "_traceback_str", "")
                raise RunStopped(f"rank {rank}: {type(cause).__name__}: {cause}\n{trace}")


class HearOfLosses(UserCallback):
    """Tells the monitor why workers were lost; runs in Ray Train's controller.

    Args:
        monitor: The run's monitor.
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Tells the cause of each rank's error."""
        for error in worker_exceptions.values():
            self._monitor.lost.remote(cause_of(error))


class CatchSigterm(WorkerCallback):
    """Turns a worker's SIGTERM into a request to leave.

    Runs in the worker's main thread, where handlers are set.
    """

    def after_init_train_context(self) -> None:
        """Sets the handler."""
        signal.signal(signal.SIGTERM, lambda number, frame: wish.ask(Why.LEAVE))
