"""A run without workers (``num_workers=0``): a worker's loop in this process, on the user's own objects.

Ray is not started; rows are encoded here. Meant for debugging and first experiments; the results are those of
one worker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import ray
from accelerate.state import AcceleratorState, GradientState, PartialState

from ray_st.data import segments
from ray_st.data.batch_source import MemoryBatchSource
from ray_st.data.token_cache import BlockEncoder
from ray_st.runtime.cluster import connection
from ray_st.runtime.data.ingest import open_source
from ray_st.runtime.train.worker import carry_out, context_of
from ray_st.training.callbacks.progress_report import EventReport, ProgressReport
from ray_st.training.callbacks.stop_consensus import StopConsensus
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import RayDataset
from ray_st.training.data.local_source import encode_here
from ray_st.training.data.source_builder import BuiltSource, build_in_memory
from ray_st.training.data.specs import DatasetSpec, LoaderSpec, RunResult, RunSpec
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.util.endings import StopRequest, Why
from ray_st.util.events import event, set_context, speaks_json
from ray_st.util.screen import SentBar, shown
from ray_st.util.signals import StopSignals
from ray_st.world import World


def build_source(spec: LoaderSpec) -> BuiltSource[MemoryBatchSource]:
    """Encodes datasets in this process, into the same blocks as on a cluster, and plans their first epoch.

    Args:
        spec: The datasets.

    Raises:
        ValueError: If rows are unusable, or there are too few.
    """
    return build_in_memory(spec, _encoded)


def _encoded(dataset: DatasetSpec, encoder: BlockEncoder) -> list[pa.Table]:
    if not isinstance(dataset.source, RayDataset):
        return encode_here(dataset, encoder, segments.ROWS)
    with connection.connected():  # a Ray Dataset: Ray reads it, and the user has already started Ray
        opened = open_source(dataset.source, dataset.encoding, dataset.label)
        rows = pa.concat_tables(ray.get(opened.to_arrow_refs()))
    return encode_here(dataclasses.replace(dataset, source=rows), encoder, segments.ROWS)


def launch(
    run: RunSpec, sources: Mapping[str, MemoryBatchSource], store: CheckpointStore, lease: Lease | None
) -> RunResult:
    """Runs a task as the only worker.

    Args:
        run: The run.
        sources: Its data, by name.
        store: The run's folder.
        lease: The lease on it; None for a run that keeps nothing.

    Raises:
        KeyboardInterrupt: On Ctrl-C: training stops after a checkpoint, or at once if it is pressed again.
    """
    with _own_accelerate(), shown() as screen:
        trainer: HfLoop = run.build(
            context_of(run, World(), store, sources, lambda steps: SentBar(screen.show, steps))
        )
        # These are the user's own callbacks: their state need not be copied back.
        callbacks, trainer.received_callbacks = trainer.received_callbacks, ()
        try:
            with _supervised(trainer, lease) as signals:
                result = carry_out(run, trainer, store)
        finally:
            trainer.restore_types()  # the weights are the user's own
    return dataclasses.replace(
        result,
        callbacks=tuple(vars(callback) for callback in callbacks),
        extras={name: vars(trainer)[name] for name in trainer.received_attributes if name in vars(trainer)},
        interrupted=signals.by_ctrl_c,
    )


@contextmanager
def _own_accelerate() -> Iterator[None]:
    """Within this context accelerate's process-wide state is that of a worker, which starts with none.

    The driver's state, which knows of no mixed precision, comes back: the next trainer is made with it.
    """
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, known in zip(shared, before, strict=True):
            state.clear()
            state.update(known)


@contextmanager
def _supervised(trainer: HfLoop, lease: Lease | None) -> Iterator[StopSignals]:
    """Handles signals and loss of the lease. No watchdog: the user may be at a breakpoint."""
    request = StopRequest()
    signals = StopSignals(lambda: request.ask(Why.STOP))
    if lease is None:
        yield signals
        return
    folder = lease.fence.path
    name = folder.rpartition("/")[2]
    lease.when_lost(lambda: request.ask(Why.STOP))
    set_context(run=name)
    if speaks_json():
        trainer.remove_callback(ProgressReport)
        event("run.started", f"run {name} in {folder}", folder=folder)
    trainer.add_callback(EventReport())
    # There are no other ranks to wait for.
    trainer.add_callback(StopConsensus(trainer.worker, request, every_s=0.0))
    with signals.taken():
        yield signals
