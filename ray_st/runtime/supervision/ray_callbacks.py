"""Callbacks that Ray Train calls during a run.

Its controller loads them before it starts a worker, so this module imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from typing import Any

from ray.train import RunConfig, UserCallback
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.callback import WorkerCallback

from ray_st.runtime.cluster.handles import Actor
from ray_st.runtime.supervision.failures import RunStopped, cause_of, original
from ray_st.util.endings import REPEATABLE, Interrupted, LeaseLost, PeerError, StopRequest, Why

stop_request = StopRequest()
"""The stop request of this worker's process; global, as signal handlers take no arguments."""


class StopAtRepeatableErrors(UserCallback):
    """Ends a run at once if restarted workers would only fail in the same way again.

    Ray Train retries any error that a worker raises; with this callback it still retries after a lost process
    or node, or a broken connection.
    """

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raises, which ends the run, if any rank's error is repeatable, or the run was asked to stop."""
        for rank, error in sorted(worker_exceptions.items()):
            cause = original(error)
            if isinstance(cause, (Interrupted, LeaseLost)):
                raise type(cause)(str(cause))
            trace = error._traceback_str if isinstance(error, UserExceptionWithTraceback) else ""
            if isinstance(cause, REPEATABLE):
                raise RunStopped(f"rank {rank}: {type(cause).__name__}: {cause}\n{trace}")
            # Ray may see a rank that was told of an error before the one that raised it.
            for failure in cause.failures if isinstance(cause, PeerError) else ():
                if failure.is_repeatable:
                    raise RunStopped(f"rank {failure.rank}: {failure.reason}\n{trace}")


class ReportLosses(UserCallback):
    """Reports to the monitor why workers were lost; runs in Ray Train's controller.

    Args:
        monitor: The run's monitor.
    """

    def __init__(self, monitor: Actor) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Reports the cause of each rank's error."""
        for error in worker_exceptions.values():
            self._monitor.lost.remote(cause_of(error))


class CatchSigterm(WorkerCallback):
    """Turns SIGTERM in a worker into a request to leave.

    Runs in the worker's main thread, where signal handlers must be installed.
    """

    def after_init_train_context(self) -> None:
        """Installs the handler."""
        signal.signal(signal.SIGTERM, lambda number, frame: stop_request.ask(Why.LEAVE))


def with_callbacks(run_config: RunConfig, *callbacks: UserCallback | WorkerCallback) -> RunConfig:
    """A run's configuration, extended by callbacks."""
    every: list[Any] = [*(run_config.callbacks or []), *callbacks]  # Ray declares only user callbacks
    return dataclasses.replace(run_config, callbacks=every)
