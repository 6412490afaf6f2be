"""Launches a run from the driver: starts workers with their data and returns the first one's result."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import (
    ControllerError,
    FailureConfig,
    PreemptionError,
    Result,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ScalingPolicy

from ray_st.runtime.cluster.connection import default_scaling
from ray_st.runtime.cluster.handles import Actor, PickledRef
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.rank_source import SourceConfig
from ray_st.runtime.supervision.console import shown
from ray_st.runtime.supervision.failures import RunStopped
from ray_st.runtime.supervision.ray_callbacks import (
    CatchSigterm,
    ReportLosses,
    StopAtRepeatableErrors,
    with_callbacks,
)
from ray_st.runtime.supervision.supervisor import ask_to_stop, monitor_of, supervise
from ray_st.runtime.train.background_evaluation import BackgroundEval, open_queue
from ray_st.runtime.train.elastic import ResizeAfterCheckpoint, workers_now
from ray_st.runtime.train.ray_configs import given_name, given_storage
from ray_st.runtime.train.storage import open_store
from ray_st.runtime.train.worker import work
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.source_builder import BuiltSource
from ray_st.training.data.specs import TRAIN, RunResult, RunSpec
from ray_st.util.endings import Interrupted, LeaseLost, OutOfRetries
from ray_st.util.events import notes, speaks_json
from ray_st.util.signals import StopSignals
from ray_st.world import WorkerRange

BAD_ROWS = "bad-rows"
"""Prefix of the files that list rows that were left out."""

T = TypeVar("T")

ABORT_S = 10.0
"""Seconds that Ray Train's controller has to end a run."""

RESTARTS = 3
"""How many times a worker group is restarted if the user passed no ``run_config``."""


def say(lines: Iterable[str]) -> None:
    """Writes lines for people; JSON events carry the same facts for programs."""
    if not speaks_json():
        for line in lines:
            notes.info(line)


def announce(built: Mapping[str, BuiltSource[Any]], store: CheckpointStore) -> None:
    """Logs what a run is about to do, and lists unusable rows in a file in the run's folder.

    Args:
        built: The run's batch sources, by name.
        store: The run's folder.
    """
    for name, one in built.items():
        for line in one.summary if name == TRAIN else ():
            notes.info(line)
        for dataset, faults in () if one.streams else one.faults.items():
            list_faults(name, dataset, faults, len(faults), store)


def list_faults(
    source: str, dataset: str, faults: Sequence[tuple[int, str]], count: int, store: CheckpointStore
) -> None:
    """Lists a dataset's unusable rows in a file in the run's folder, and says so.

    Args:
        source: Name of the batch source.
        dataset: Name of the dataset.
        faults: The number of each unusable row, and what is wrong with it; the first ones.
        count: Number of unusable rows.
        store: The run's folder.
    """
    if not count:
        return
    path = f"{store.path}/{BAD_ROWS}-{source.replace(':', '-')}{'-' * bool(dataset)}{dataset}.jsonl"
    with store.filesystem.open_output_stream(path) as stream:
        for row, reason in faults:
            stream.write((json.dumps({"row": row, "reason": reason}) + "\n").encode())
    listed = "listed" if len(faults) == count else f"the first {len(faults):,} listed"
    notes.info(f"{count:,} unusable rows are left out and {listed} in {path}")


def launch(
    run: RunSpec,
    sources: Mapping[str, RayBatchSource],
    scaling: ScalingConfig,
    run_config: RunConfig,
    background: BackgroundEval | None = None,
    torch_config: TorchConfig | None = None,
    lease: Lease | None = None,
) -> RunResult:
    """Runs workers to completion, restarting them as ``run_config`` allows.

    Args:
        run: What each worker does.
        sources: Its data, by name.
        scaling: Number and kind of workers.
        run_config: Name and storage of the run.
        background: How the run is evaluated in the background; None if its workers evaluate.
        torch_config: Configuration of the workers' process group; None for Ray Train's default.
        lease: The lease on the run's folder; required for training.

    Returns:
        The first worker's result.

    Raises:
        KeyboardInterrupt: On Ctrl-C: training stops after a checkpoint, or at once if it is pressed again.
    """
    no_datasets: Any = dict.fromkeys(sources)  # names only: the sources come from the data config
    pickled = PickledRef(run)
    with ExitStack() as stack:
        queue = stack.enter_context(open_queue(background, pickled, sources))
        name, supervisor, signals = str(run_config.name), None, None
        monitor = stack.enter_context(monitor_of(name))
        channel = stack.enter_context(shown(monitor, name))
        if TRAIN in sources:
            assert lease is not None
            lease.fence.check()  # encoding may have taken a long time
            supervisor = supervise(monitor, name, lease)
            run_config = with_callbacks(run_config, ReportLosses(monitor), CatchSigterm())
            signals = StopSignals(lambda: ask_to_stop(monitor))
            stack.enter_context(signals.taken())
        reserve = None if queue is None else queue.reserve
        result = run_workers(
            lambda: work(pickled.open(), channel, queue, supervisor),
            scaling,
            run_config,
            policy=ResizeAfterCheckpoint(scaling, channel, reserve) if is_elastic(scaling) else None,
            torch_config=torch_config,
            datasets=no_datasets,
            dataset_config=SourceConfig(sources),
        )
    return dataclasses.replace(result, interrupted=signals is not None and signals.by_ctrl_c)


class _Trainer(TorchTrainer):
    """Ray Train's trainer without its Ctrl-C handler.

    That handler exits the program with code 0, and stays installed after the run.
    """

    _controller: Actor | None = None
    policy: ScalingPolicy | None = None
    """Decides on the number of workers instead of Ray Train's own policy."""

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        if self.policy is not None:
            options["scaling_policy"] = self.policy
        version_2: Any = super()  # Ray declares the class of Train's first version
        result: Result = version_2._initialize_and_run_controller(**options)
        return result

    def _register_sigint_handler(self, controller: Actor) -> None:
        self._controller = controller

    def fit(self) -> Result:
        """Runs the workers; aborts them if this process is told to exit at once."""
        try:
            return super().fit()
        except (KeyboardInterrupt, SystemExit):
            if self._controller is not None:
                _abort(self._controller)
            raise


def _abort(controller: Actor) -> None:
    """Ends a run at once."""
    try:
        ray.get(controller.abort.remote(), timeout=ABORT_S)
    except RayActorError:
        pass  # it ends itself
    except GetTimeoutError:  # it answers nobody while it waits for room for an elastic run's workers
        ray.kill(controller)


def run_workers(
    task: Callable[[], T | None],
    scaling: ScalingConfig,
    run_config: RunConfig,
    policy: ScalingPolicy | None = None,
    **options: Any,
) -> T:
    """Runs a task on workers that form a process group, restarting them as ``run_config`` allows.

    Args:
        task: What each worker does; only the first one's return value matters.
        scaling: Number and kind of workers.
        run_config: Name and storage of the run.
        policy: Decides on the number of workers; None for Ray Train's own policy.
        options: Other arguments of ``TorchTrainer``.

    Returns:
        The first worker's return value.

    Raises:
        RunStopped: If a worker raised an error that a restart would not fix.
        LeaseLost: If another driver took over the run's folder.
        Interrupted: If the run was asked to stop, or its storage was unavailable when Ray Train's controller
            wrote to it; the run can be resumed.
        OutOfRetries: If workers were lost more often than ``run_config`` allows.
    """
    # Ray Train's workers emit printed text twice, through a logger and unchanged; ours use the driver's
    # console instead.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    pickled = PickledRef(task)
    trainer = _Trainer(
        lambda: cloudpickle.dumps(pickled.open()()),
        scaling_config=scaling,
        run_config=with_callbacks(run_config, StopAtRepeatableErrors()),
        **options,
    )
    trainer.policy = policy
    try:
        result: Any = trainer.fit()
    except ControllerError as error:
        cause = error.controller_failure
        if isinstance(cause, (RunStopped, Interrupted, LeaseLost)):
            raise cause from None
        if isinstance(cause, OSError):  # the controller records each reported checkpoint in the run's folder
            raise Interrupted(
                f"Ray Train's controller could not write to the run's storage ({cause}). Complete "
                "checkpoints are not harmed: when it is there again, go on with resume_from_checkpoint=True"
            ) from error
        raise
    except (WorkerGroupError, PreemptionError) as error:
        raise OutOfRetries(f"workers were lost more often than max_failures allows. {error}") from error
    value: T = cloudpickle.loads(result.return_value)
    return value


def complete_run_config(run_config: RunConfig | None, output_dir: str) -> RunConfig:
    """A run configuration that stores checkpoints in ``output_dir``, unless the user's says otherwise.

    Args:
        run_config: The user's configuration, or None.
        output_dir: The training arguments' output folder.
    """
    parent, name = os.path.split(os.path.abspath(output_dir))
    if run_config is None:
        return RunConfig(name=name, storage_path=parent, failure_config=FailureConfig(max_failures=RESTARTS))
    return dataclasses.replace(
        run_config, storage_path=given_storage(run_config) or parent, name=given_name(run_config) or name
    )


def store_of(run_config: RunConfig | None, output_dir: str) -> CheckpointStore:
    """The folder of a run, for reading.

    Args:
        run_config: As for :func:`complete_run_config`.
        output_dir: As for :func:`complete_run_config`.
    """
    return open_store(complete_run_config(run_config, output_dir), "")


def runs_here(scaling: ScalingConfig | None) -> bool:
    """Whether everything runs in this process, without workers: Ray Train's ``num_workers=0``."""
    return scaling is not None and scaling.num_workers == 0


def workers_of(scaling: ScalingConfig) -> WorkerRange:
    """The number of workers of a scaling config.

    Raises:
        ValueError: If its range cannot be that of a run.
    """
    return WorkerRange.of(scaling.num_workers)


def is_elastic(scaling: ScalingConfig) -> bool:
    """Whether Ray Train may change the number of workers, which it is told by two numbers."""
    return isinstance(scaling.num_workers, tuple)


def with_fixed_number(scaling: ScalingConfig) -> ScalingConfig:
    """A scaling config without a range: the number of workers for which there is room now, for a short task.

    Args:
        scaling: The config of a run whose least number of workers fits.
    """
    span = workers_of(scaling)
    now = span.most if span.is_fixed else workers_now(scaling)
    return dataclasses.replace(scaling, num_workers=max(span.least, now))


def resolve_scaling(scaling: ScalingConfig | None, use_cpu: bool = False) -> ScalingConfig:
    """The user's scaling config, or the default for the cluster.

    Args:
        scaling: The user's config, or None.
        use_cpu: Whether the training arguments request CPUs.

    Raises:
        ValueError: If the arguments request CPUs and the config GPUs.
    """
    if scaling is None:
        return ScalingConfig(num_workers=1) if use_cpu else default_scaling()
    if use_cpu and scaling.use_gpu:
        raise ValueError(
            "use_cpu=True and scaling_config=ScalingConfig(use_gpu=True) contradict each other. Leave one "
            "out."
        )
    return scaling
