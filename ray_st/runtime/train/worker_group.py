"""A worker group that stays: Ray Train's workers, which carry out one run after another.

Starting a group takes many times as long as a step: processes start, import torch and transformers, and form
a process group. A search starts one trial after another, all with the same workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig

from ray_st.runtime.cluster.handles import Actor, PickledRef, start_actor
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.rank_source import RankBatchSource
from ray_st.runtime.supervision.console import Channel, shown
from ray_st.runtime.supervision.ray_callbacks import CatchSigterm, with_callbacks
from ray_st.runtime.supervision.supervisor import Supervisor, monitor_of, supervise
from ray_st.runtime.train.forget_run import forget_run
from ray_st.runtime.train.job_desk import JobDesk
from ray_st.runtime.train.launch import run_workers
from ray_st.runtime.train.worker import work_on, world_of_worker
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.specs import RunResult, RunSpec

_LOOK_S = 1.0
"""Seconds after which it is noticed that a group has ended."""


@dataclass(frozen=True)
class Job:
    """What workers need besides the run's specification.

    Args:
        store: The run's folder.
        sources: Its data, by name.
        channel: The channel to the console.
        supervisor: How training is supervised.
    """

    store: CheckpointStore
    sources: Mapping[str, RayBatchSource]
    channel: Channel
    supervisor: Supervisor


class WorkerGroup:
    """Workers that carry out one run after another until they are sent home, or one of their runs fails.

    Args:
        scaling: Number and kind of workers.
        run_config: Name and storage of the group, as Ray Train sees it.
        torch_config: Configuration of their process group.
    """

    def __init__(self, scaling: ScalingConfig, run_config: RunConfig, torch_config: TorchConfig) -> None:
        assert isinstance(scaling.num_workers, int)
        desk = start_actor(JobDesk, num_cpus=0, max_concurrency=scaling.num_workers + 4)
        # A copy: Ray Train writes the backend that it chose into its own.
        self.torch_config, self._desk, self._pool = replace(torch_config), desk, ThreadPoolExecutor(1)
        self._ended: Future[None] = self._pool.submit(
            run_workers,
            lambda: serve(desk),
            scaling,
            with_callbacks(run_config, CatchSigterm()),
            torch_config=torch_config,
        )

    @property
    def is_there(self) -> bool:
        """Whether the workers can carry out another run."""
        return not self._ended.done()

    def run(
        self, run: RunSpec, sources: Mapping[str, RayBatchSource], store: CheckpointStore, lease: Lease
    ) -> RunResult:
        """Has the workers carry out a run.

        Args:
            run: What each worker does.
            sources: Its data, by name.
            store: Its folder.
            lease: The lease on its folder.

        Returns:
            The first worker's result.

        Raises:
            RunStopped: If a worker raised an error that a restart would not fix.
            LeaseLost: If another driver took over the run's folder.
            Interrupted: If the run was asked to stop.
            OutOfRetries: If a worker was lost. After any error the workers have gone.
        """
        name = store.path.rpartition("/")[2]
        with ExitStack() as stack:
            monitor = stack.enter_context(monitor_of(name))
            channel = stack.enter_context(shown(monitor, name))
            lease.fence.check()
            supervisor = supervise(monitor, name, lease)
            job = Job(store, sources, channel, supervisor)
            ray.get(self._desk.give.remote(PickledRef(run), [ray.put(job)]))
            return self._result()

    def _result(self) -> RunResult:
        asked: ray.ObjectRef[Any] | None = None
        while not self._ended.done():
            asked = self._desk.result.remote() if asked is None else asked
            if not ray.wait([asked], timeout=_LOOK_S)[0]:
                continue
            found, asked = ray.get(asked), None
            if found is not None:
                result: RunResult = cloudpickle.loads(found)
                return result
        self._ended.result()
        raise RuntimeError("the workers were sent home before their run had ended")

    def close(self) -> None:
        """Sends the workers home, and waits until they have gone."""
        if self.is_there:
            self._desk.close.remote()
        self._pool.shutdown()
        ray.kill(self._desk)


def serve(desk: Actor) -> None:
    """Carries out a group's runs on one of its workers.

    Args:
        desk: Hands them out.
    """
    done = 0
    while (found := ray.get(desk.next.remote(done))) is not None:
        number, run, parts = found
        if number > done:
            done = number
            _carry_out(run.open(), ray.get(parts[0]), desk)


def _carry_out(run: RunSpec, job: Job, desk: Actor) -> None:
    world = world_of_worker()
    apart = ray.train.get_context().get_local_world_size() < world.size
    sources = {
        name: RankBatchSource.of(source, world) if apart else source for name, source in job.sources.items()
    }
    try:
        result = work_on(run, job.store, sources, job.channel, supervisor=job.supervisor)
    finally:
        forget_run()
    if world.is_first:
        ray.get(desk.finish.remote(cloudpickle.dumps(result)))
