"""Runs a task inside a Ray Train worker."""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from ray_st.data.batch_source import BatchSource
from ray_st.runtime.cluster.connection import cores_of_node
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.supervision.console import Channel, speaking
from ray_st.runtime.supervision.supervisor import Supervisor, supervised_worker
from ray_st.training.async_eval.protocol import EvalQueue
from ray_st.training.callbacks.progress_report import OpenBar
from ray_st.training.checkpoint.node_copy import fetched, own_start
from ray_st.training.checkpoint.sample_log import LEDGER, SampleLog
from ray_st.training.checkpoint.store import CheckpointStore, SavedCheckpoint
from ray_st.training.data.specs import TRAIN, RunResult, RunSpec, eval_names
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.training.trained_weights import keep_trained
from ray_st.training.worker_context import Report, WorkerContext, no_report
from ray_st.world import World


def work(
    run: RunSpec, channel: Channel, queue: EvalQueue | None = None, supervisor: Supervisor | None = None
) -> RunResult | None:
    """Builds the trainer in this worker's context and runs its task.

    Args:
        run: The run.
        channel: The channel to the driver's console.
        queue: Takes requests for background evaluation; None if the workers evaluate.
        supervisor: How training is supervised; None for a short task.

    Returns:
        The result on the first worker; None on the others.
    """
    storage = ray.train.get_context().get_storage()
    store = CheckpointStore(storage.experiment_fs_path, storage.storage_filesystem, run.run_id, run.fence)
    sources: dict[str, Any] = {name: ray.train.get_dataset_shard(name) for name in run.sources}
    return work_on(run, store, sources, channel, queue, supervisor, CheckpointReport(store))


def work_on(
    run: RunSpec,
    store: CheckpointStore,
    sources: Mapping[str, BatchSource],
    channel: Channel,
    queue: EvalQueue | None = None,
    supervisor: Supervisor | None = None,
    report: Report = no_report,
) -> RunResult | None:
    """What :func:`work` does, with the folder and the data that are given.

    Args:
        run: As for :func:`work`.
        store: The run's folder.
        sources: The run's data, by name.
        channel: As for :func:`work`.
        queue: Likewise.
        supervisor: Likewise.
        report: Called on every rank after each checkpoint.
    """
    _quiet_reports()
    # Objects created by imports stay alive: exclude them from the full collection that starts training.
    gc.freeze()
    take_granted_device()  # transformers finds the device itself, but knows nothing of shares
    if run.all_cores:
        torch.set_num_threads(cores_of_node())
    context = dataclasses.replace(
        context_of(run, world_of_worker(), store, sources, channel.open_bar), report=report, eval_queue=queue
    )
    with speaking(channel, context.world, run.log_level):
        trainer = run.build(context)
        with supervised_worker(trainer, context, supervisor) if supervisor else nullcontext():
            result = carry_out(run, trainer, store)
        if run.keeps_weights and context.world.is_first:
            result = dataclasses.replace(result, weights=keep_trained(store, trainer.model, trainer.loss))
    return result if context.world.is_first else None


def _quiet_reports() -> None:
    # Ray Train logs a line for each report of each rank, through a logger named after its file; our loop
    # logs what users want to see.
    module = sys.modules.get("ray.train.v2._internal.execution.context")
    if module is not None:
        logging.getLogger(module.__file__).setLevel(logging.WARNING)


def world_of_worker() -> World:
    """This worker's position in its group; the only function that asks Ray for it."""
    context = ray.train.get_context()
    return World(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        node_rank=context.get_node_rank(),
    )


def context_of(
    run: RunSpec, world: World, store: CheckpointStore, sources: Mapping[str, BatchSource], open_bar: OpenBar
) -> WorkerContext:
    """A worker's context, as a run specifies it.

    Args:
        run: The run.
        world: The worker's position in its group.
        store: The run's folder.
        sources: The run's data, by name.
        open_bar: Opens a progress bar, if the run shows one.
    """
    keeps_log = run.ledger and world.is_first
    return WorkerContext(
        world=world,
        store=store,
        train=sources.get(TRAIN),
        evals=eval_names(sources),
        prompt_lengths=run.prompt_lengths,
        open_bar=open_bar if run.bar else None,
        facts=run.facts,
        sample_log=SampleLog(f"{store.path}/{LEDGER}", store.check_fence) if keeps_log else None,
    )


def carry_out(run: RunSpec, trainer: HfLoop, store: CheckpointStore) -> RunResult:
    """Runs the task, starting from the run's checkpoint.

    Args:
        run: The run.
        trainer: The worker's trainer.
        store: The run's folder.
    """
    world = trainer.worker.world
    start = own_start(store, world) or fetched(store, run.start, world)
    if start.path is not None and start.only_model:
        trainer.take_weights(start.path)
    result: RunResult = run.task(trainer, None if start.only_model else start.path)
    return result


class CheckpointReport:
    """Reports a checkpoint that is already in storage to Ray Train. A barrier: every rank must call it.

    Args:
        store: The run's folder.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    def __call__(self, metrics: dict[str, Any], saved: SavedCheckpoint) -> None:
        """Reports a checkpoint with the newest metrics."""
        checkpoint = Checkpoint(self._store.location(saved.name), self._store.filesystem)
        is_first = ray.train.get_context().get_world_rank() == 0
        ray.train.report(
            metrics,
            checkpoint=checkpoint if is_first else None,
            checkpoint_dir_name=saved.name,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
