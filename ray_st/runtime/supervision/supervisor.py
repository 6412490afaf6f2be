"""Supervision of a run, on both driver and workers: signals, hangs, lost workers, metrics and events."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ray
import ray.train
from ray.exceptions import RayActorError, RayError

from ray_st.runtime.cluster.connection import this_node
from ray_st.runtime.cluster.handles import Actor, start_actor
from ray_st.runtime.supervision.failures import Resized
from ray_st.runtime.supervision.ray_callbacks import stop_request
from ray_st.runtime.supervision.ray_metrics import RunMetrics
from ray_st.runtime.supervision.run_monitor import GroupsBefore, MonitorUpdate, RunMonitor
from ray_st.training.callbacks.progress_report import EventReport, ProgressReport
from ray_st.training.callbacks.stop_consensus import StopConsensus
from ray_st.training.callbacks.throughput import Goodput, Throughput
from ray_st.training.callbacks.watchdog import Watchdog, stacks
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.training.worker_context import WorkerContext
from ray_st.util.endings import Hang, HangError, Moved, Why
from ray_st.util.events import event, set_context, speaks_json

STEP_LIMIT = "RAY_ST_STEP_LIMIT_S"
"""Environment variable of the driver: seconds without progress after which a step counts as hung.

Without it, the watchdog learns the limit from recent steps.
"""

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
        step_limit_s: See :data:`STEP_LIMIT`; None if it is not set.
    """

    monitor: Actor
    run: str
    started: float
    step_limit_s: float | None


# ---- on the driver ----


@contextmanager
def monitor_of(run: str) -> Iterator[Actor]:
    """Starts a run's monitor actor, which lives while the context is open.

    Args:
        run: The run's name.
    """
    # Only on this node: another one could be lost without the driver, and soft affinity yields under load.
    monitor = start_actor(RunMonitor, run, num_cpus=0, label_selector=this_node())
    try:
        yield monitor
    finally:
        ray.kill(monitor)


def supervise(monitor: Actor, run: str, lease: Lease) -> Supervisor:
    """Announces a run, and has it stop at once if it loses the lease on its folder.

    Args:
        monitor: The run's monitor.
        run: The run's name.
        lease: The lease on the run's folder.
    """
    set_context(run=run)
    lease.when_lost(lambda: ask_to_stop(monitor))
    if speaks_json():
        event("run.started", f"run {run} in {lease.fence.path}", folder=lease.fence.path)
    return Supervisor(monitor, run, time.time(), step_limit_s())


def step_limit_s() -> float | None:
    """The value of :data:`STEP_LIMIT`; None if it is not set."""
    given = os.environ.get(STEP_LIMIT)
    return None if given is None else float(given)


def ask_to_stop(monitor: Actor) -> None:
    """Asks a run's workers to stop after a checkpoint.

    Args:
        monitor: The run's monitor.
    """
    with suppress(RayError):  # the run has just ended on its own
        ray.get(monitor.stop.remote())


# ---- on a worker ----


@contextmanager
def supervised_worker(trainer: HfLoop, context: WorkerContext, supervisor: Supervisor) -> Iterator[None]:
    """Supervises a worker's training while the context is open.

    Args:
        trainer: The worker's trainer.
        context: The worker's context.
        supervisor: The run's supervisor.
    """
    monitor, rank = supervisor.monitor, context.world.rank
    if speaks_json():
        trainer.remove_callback(ProgressReport)
    watchdog = Watchdog(rank, lambda hang: _give_up(hang, context, monitor), supervisor.step_limit_s)
    metrics = RunMetrics(supervisor.run)
    goodput = Goodput(
        supervisor.started, lambda step: ray.get(monitor.total_at.remote(step)), monitor.book.remote
    )
    consensus = StopConsensus(trainer.worker, stop_request, _node_is_draining, lambda: meter.pace())
    meter = Throughput(trainer, metrics, lambda: consensus.skew, goodput)
    events = EventReport()
    for callback in (watchdog, meter, events, consensus):  # the last one may end the run
        trainer.add_callback(callback)
    ray.get(monitor.enter.remote(rank, ray.get_runtime_context().current_actor))
    if context.world.is_first:
        _announce_group(monitor, context.world.size)
    threading.Thread(target=_listen, args=(monitor, context), name="ray_st-news", daemon=True).start()
    watchdog.start()
    try:
        yield
    except Moved as moved:
        if moved.why is Why.PREEMPTED:  # reported as such, Ray Train does not count it as a failure
            raise RayActorError(error_msg=str(moved), preempted=True) from moved
        if moved.why is Why.RESIZED:
            raise Resized(str(moved)) from moved
        raise
    finally:
        watchdog.stop()


def _announce_group(monitor: Actor, workers: int) -> None:
    before: GroupsBefore = ray.get(monitor.group_started.remote(workers))
    if before.groups and before.cause != "resized":
        message = f"workers were lost ({before.cause}) and are replaced"
        event("workers.lost", message, cause=before.cause, replaced=before.groups)
    elif speaks_json() and not before.groups:
        event("workers.started", f"{workers} workers", workers=workers)
    if before.groups and workers != before.size:
        message = f"{before.size} worker(s) before, {workers} now"
        event("workers.resized", message, workers=workers, before=before.size)


def _node_is_draining() -> bool:
    """Whether a node of the run is being drained; a barrier across all ranks."""
    return ray.train.get_preemption_info() is not None


def _listen(monitor: Actor, context: WorkerContext) -> None:
    """Carries out the monitor's requests until it is gone."""
    news = MonitorUpdate()
    answered = None
    with suppress(RayError):
        while True:
            news = ray.get(monitor.news.remote(news.version))
            if news.stop:
                stop_request.ask(Why.STOP)
            if news.resize:
                stop_request.ask(Why.RESIZED)
            if news.hang is not None and news.hang != answered:
                answered = news.hang
                write_stacks(context.store, context.world.rank, answered)
                ray.get(monitor.answer.remote(context.world.rank))


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


def _give_up(hang: Hang, context: WorkerContext, monitor: Actor) -> None:
    """Has all ranks write their stacks, then fails this worker with an error after which Ray restarts.

    Ranks that do not answer are killed: a stopped process does not exit on request, and Ray Train would wait
    for it at each step of the group's shutdown, a minute in total.
    """
    event("hang.seen", str(hang), **dataclasses.asdict(hang))
    answered: list[int] = []
    with suppress(RayError):
        ray.get(monitor.hang.remote(hang))
        answered = ray.get(monitor.answers.remote(context.world.size, ANSWER_S))
    silent = sorted(set(range(context.world.size)) - set(answered))
    folder = f"{context.store.path}/{STACKS}/step-{hang.step}"
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
