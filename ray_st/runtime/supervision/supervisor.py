"""Supervision of a run, on both driver and workers: signals, hangs, lost workers, metrics and events."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train import RunConfig

from ray_st.runtime.cluster.connection import NODE_ID
from ray_st.runtime.supervision.ray_callbacks import CatchSigterm, HearOfLosses, wish
from ray_st.runtime.supervision.ray_metrics import RunMetrics
from ray_st.runtime.supervision.run_monitor import MonitorUpdate, RunMonitor
from ray_st.training.callbacks.progress_report import EventReport, ProgressReport
from ray_st.training.callbacks.stop_consensus import StopConsensus
from ray_st.training.callbacks.throughput import Goodput, Throughput
from ray_st.training.callbacks.watchdog import STEP_LIMIT_S, Watchdog, stacks
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.worker_context import WorkerContext
from ray_st.util.endings import Hang, HangError, Moved, Why
from ray_st.util.events import event, set_context, speaks_json

STEP_LIMIT = "RAY_ST_STEP_LIMIT_S"
"""Environment variable of the driver: seconds without progress after which a step counts as hung."""

STACKS = "stacks"
"""Subfolder of the run's folder for the stacks written after a hang."""

ANSWER_S = 5.0
"""Seconds that ranks have to write their stacks."""


@dataclass(frozen=True)
class Supervisor:
    """What a run's workers need for supervision.

    Args:
        monitor: The run's monitor.
        run: Its name.
        started: Its start time, in seconds since 1970.
        step_limit_s: See :data:`STEP_LIMIT`.
    """

    monitor: Any
    run: str
    started: float
    step_limit_s: float


# ---- on the driver ----


@contextmanager
def monitor_of(run: str) -> Iterator[Any]:
    """Starts a run's monitor actor, which lives while the context is open.

    Args:
        run: The run's name.
    """
    # Only on this node: another one could be lost without the driver, and soft affinity yields under load.
    here = {NODE_ID: ray.get_runtime_context().get_node_id()}
    actor: Any = ray.remote(RunMonitor)
    monitor = actor.options(num_cpus=0, label_selector=here).remote(run)
    try:
        yield monitor
    finally:
        ray.kill(monitor)


@contextmanager
def supervised(monitor: Any, run: str, lease: Lease) -> Iterator[Supervisor]:
    """Stops the run at once if it loses the lease on its folder, while the context is open.

    Args:
        monitor: The run's monitor.
        run: The run's name.
        lease: The lease on the run's folder.
    """
    set_context(run=run)
    lease.when_lost(lambda: ask_to_stop(monitor))
    if speaks_json():
        folder = lease.fence.path
        event("run.started", f"run {run} in {folder}", folder=folder)
    yield Supervisor(monitor, run, time.time(), step_limit_s())


def step_limit_s() -> float:
    """Seconds without progress after which a step counts as hung; see :data:`STEP_LIMIT`."""
    return float(os.environ.get(STEP_LIMIT, STEP_LIMIT_S))


@contextmanager
def at_sigterm(call: Callable[[], object]) -> Iterator[None]:
    """Calls a function on this process's first SIGTERM; the next one has its previous effect.

    Args:
        call: Called in a separate thread: actor calls are not safe in a signal handler, which may interrupt
            another one.
    """
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # a trial of a search: the search handles the signal
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        threading.Thread(target=call, daemon=True).start()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ask_to_stop(monitor: Any) -> None:
    """Asks a run's workers to stop after a checkpoint.

    Args:
        monitor: The run's monitor.
    """
    with suppress(RayError):  # the run has just ended on its own
        ray.get(monitor.stop.remote())


def watched(run_config: RunConfig, oversight: Supervisor) -> RunConfig:
    """A run's configuration, extended by the callbacks that supervise its workers.

    Args:
        run_config: The run's configuration.
        oversight: Its supervisor.
    """
    watching: list[Any] = [HearOfLosses(oversight.monitor), CatchSigterm()]
    return dataclasses.replace(run_config, callbacks=[*(run_config.callbacks or []), *watching])


# ---- on a worker ----


@contextmanager
def supervised_worker(trainer: Any, place: WorkerContext, oversight: Supervisor) -> Iterator[None]:
    """Supervises a worker's training while the context is open.

    Args:
        trainer: The worker's trainer.
        place: The worker's context.
        oversight: The run's supervisor.
    """
    monitor, rank = oversight.monitor, place.world.rank
    if speaks_json():
        trainer.remove_callback(ProgressReport)
    watchdog = Watchdog(rank, lambda hang: _give_up(hang, place, monitor), oversight.step_limit_s)
    figures = RunMetrics(oversight.run)
    tally = Goodput(
        oversight.started, lambda step: ray.get(monitor.total_at.remote(step)), monitor.book.remote
    )
    roll_call = StopConsensus(trainer.worker, wish, _a_node_is_taken, lambda: meter.pace())
    meter = Throughput(trainer, figures, lambda: roll_call.skew, tally)
    events = EventReport(lambda: trainer.checkpointer.newest)
    for callback in (watchdog, meter, events, roll_call):  # the last one may end the run
        trainer.add_callback(callback)
    ray.get(monitor.enter.remote(rank, ray.get_runtime_context().current_actor))
    if place.world.is_first:
        _introduce(monitor, place)
    threading.Thread(target=_listen, args=(monitor, place), name="ray_st-news", daemon=True).start()
    watchdog.start()
    try:
        yield
    except Moved as moved:
        if moved.why is Why.PREEMPTED:  # reported as such, Ray Train does not count it as a failure
            raise RayActorError(error_msg=str(moved), preempted=True) from moved
        raise
    finally:
        watchdog.stop()


def _introduce(monitor: Any, place: WorkerContext) -> None:
    before, cause = ray.get(monitor.group_started.remote())
    if before:
        event("workers.lost", f"workers were lost ({cause}) and are replaced", cause=cause, replaced=before)
    elif speaks_json():
        event("workers.started", f"{place.world.size} workers", workers=place.world.size)


def _a_node_is_taken() -> bool:
    """Whether a node of the run is being drained; a barrier across all ranks."""
    return ray.train.get_preemption_info() is not None


def _listen(monitor: Any, place: WorkerContext) -> None:
    """Carries out the monitor's requests until it is gone."""
    news = MonitorUpdate()
    answered = None
    with suppress(RayError):
        while True:
            news = ray.get(monitor.news.remote(news.version))
            if news.stop:
                wish.ask(Why.STOP)
            if news.hang is not None and news.hang != answered:
                answered = news.hang
                write_stacks(place.store, place.world.rank, answered)
                ray.get(monitor.answer.remote(place.world.rank))


def write_stacks(store: CheckpointStore, rank: int, hang: Hang) -> str:
    """Writes the stack of each thread of this process to a file; returns the folder.

    Args:
        store: The run's folder.
        rank: This process's rank.
        hang: The detected hang.
    """
    folder = f"{store.path}/{STACKS}/step-{hang.step}"
    with suppress(OSError):  # storage itself may be what hangs
        store.filesystem.create_dir(folder, recursive=True)
        with store.filesystem.open_output_stream(f"{folder}/rank-{rank}.txt") as stream:
            stream.write(f"{hang}\n\n{stacks()}".encode())
    return folder


def _give_up(hang: Hang, place: WorkerContext, monitor: Any) -> None:
    """Has all ranks write their stacks, then fails this worker with an error after which Ray restarts.

    Ranks that do not answer are killed: a stopped process does not exit on request, and Ray Train would wait
    for it at each step of the group's shutdown, a minute in total.
    """
    event("hang.seen", str(hang), **dataclasses.asdict(hang))
    answered: list[int] = []
    with suppress(RayError):
        ray.get(monitor.hang.remote(hang))
        answered = ray.get(monitor.answers.remote(place.world.size, ANSWER_S))
    silent = sorted(set(range(place.world.size)) - set(answered))
    folder = f"{place.store.path}/{STACKS}/step-{hang.step}"
    missing = f"; ranks {silent} did not answer: frozen, or cut off" if silent else ""
    event("hang.stacks", f"stacks of ranks {answered} are in {folder}{missing}", folder=folder, silent=silent)
    _fail(HangError(f"{hang}; stacks are in {folder}{missing}"))
    with suppress(RayError):
        ray.get(monitor.end.remote([other for other in silent if other != hang.rank]))


def _fail(error: Exception) -> None:
    """Fails the run of the training thread even though the thread is stuck.

    Ray Train has no public way to do so.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    runner = get_train_context().execution_context.training_thread_runner
    runner.get_exception_queue().put(error)
