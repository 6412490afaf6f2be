"""Runs a trainer's task on the cluster's workers and returns its result to the driver."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ray.train import RunConfig, ScalingConfig
from transformers import IntervalStrategy

from ray_st.runtime.cluster import connection
from ray_st.runtime.data.cluster_source import build_on_cluster
from ray_st.runtime.train import launch, storage, this_process
from ray_st.runtime.train.background_evaluation import BackgroundEval, resources_beside
from ray_st.training.callbacks.run_header import header, starting
from ray_st.training.checkpoint import resume
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.resume import Start
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import prompt_lengths
from ray_st.training.data.source_builder import AnySource, BuiltSource, facts_of, sources_of
from ray_st.training.data.specs import TRAIN, LoaderSpec, RunResult, RunSpec
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import EvalOn, SentenceTransformerTrainingArguments
from ray_st.util.screen import has_bar
from ray_st.util.signals import handlers_kept


@dataclass(frozen=True)
class RunRequest:
    """A task that a trainer runs on workers.

    Args:
        args: The trainer's arguments.
        weights: Description of the model's weights.
        subject: What is trained, and with what, for the first line of output.
        build: Rebuilds the trainer in a worker's context.
        task: What the trainer does there.
        make_parts: Makes the run's data specs for a number of workers; raises if the run cannot work.
        resume: The checkpoint to start from: a path, True for the newest in the run's folder, or nothing.
        keeps: Whether the run writes into the output folder.
        scaling_config: Number and kind of workers, or None for the cluster's default.
        run_config: Name, storage and failure handling, or None for the default.
    """

    args: SentenceTransformerTrainingArguments
    weights: str
    subject: str
    build: Callable[[WorkerContext], Any]
    task: Callable[[Any, str | None], Any]
    make_parts: Callable[[int], dict[str, LoaderSpec]]
    resume: str | bool | None
    keeps: bool
    scaling_config: ScalingConfig | None = None
    run_config: RunConfig | None = None


def dispatch(errand: RunRequest) -> RunResult:
    """Runs a request on workers, or in this process if ``num_workers=0``.

    Raises:
        ValueError: If the run cannot work; raised before any worker starts.
    """
    args, keeps = errand.args, errand.keeps
    with ExitStack() as stack:
        # Take the folder before starting Ray: if two runs want the same one, the second fails at once.
        output_dir = stack.enter_context(storage.run_folder(str(args.output_dir), keeps))
        run_config = launch.complete_run_config(errand.run_config if keeps else None, output_dir)
        store = storage.open_store(run_config, uuid.uuid4().hex)
        lease = None
        if keeps:
            store, lease = stack.enter_context(storage.taken(store))
        if keeps and args.ledger:
            _check_ledger(store)
        start = resume.find_checkpoint(store, errand.resume, args.resume_only_model)
        resume.check_model(start, errand.weights)
        if keeps:
            launch.say(header(args, str(run_config.name), store.path, errand.subject))
        begun = _Begun(errand, run_config, store, start, lease)
        if launch.runs_here(errand.scaling_config):
            stack.enter_context(handlers_kept())
            outcome = _run_here(begun)
        else:
            stack.enter_context(connection.connected())
            outcome = _run_on_workers(begun)
        launch.say(
            [f"checkpoints are in {store.path}; the model here has the trained weights"] if keeps else []
        )
        return outcome


@dataclass(frozen=True)
class _Begun:
    """A request whose run folder is ready.

    Args:
        errand: The request.
        run_config: Storage and failure handling of the run.
        store: The run's folder.
        start: The checkpoint that the run starts from.
        lease: The lease on the folder; None for a run that keeps nothing.
    """

    errand: RunRequest
    run_config: RunConfig
    store: CheckpointStore
    start: Start
    lease: Lease | None

    def described(
        self,
        workers: int,
        build: Callable[[LoaderSpec], BuiltSource[AnySource]],
        all_cores: bool = False,
    ) -> tuple[RunSpec, dict[str, AnySource]]:
        """The run, with its batch sources; raises if the data is unusable."""
        args, store = self.errand.args, self.store
        specs = self.errand.make_parts(workers)
        built, start = _build_sources(self.errand, specs, store, self.start, build)
        run = RunSpec(
            run_id=store.run_id,
            build=self.errand.build,
            task=self.errand.task,
            sources=tuple(built),
            start=start,
            prompt_lengths=prompt_lengths(specs),
            bar=has_bar() and not args.disable_tqdm,
            log_level=args.get_process_log_level(),
            facts=facts_of(built),
            ledger=args.ledger and self.errand.keeps,
            fence=store.fence,
            all_cores=all_cores,
        )
        return run, sources_of(built)


def _run_here(begun: _Begun) -> RunResult:
    run, sources = begun.described(1, this_process.build_source)
    return this_process.launch(run, sources, begun.store, begun.lease)


def _run_on_workers(begun: _Begun) -> RunResult:
    args, keeps, asked = begun.errand.args, begun.errand.keeps, begun.errand.scaling_config
    scaling = launch.resolve_scaling(asked, args.use_cpu)
    workers = launch.workers_of(scaling)
    aside = resources_beside(args.eval_resources, scaling) if keeps and _evaluates_beside(args) else {}
    connection.check_fits(scaling, aside)
    all_cores = workers == 1 and connection.takes_all_cores(asked)
    run, sources = begun.described(workers, build_on_cluster, all_cores)
    beside = BackgroundEval(begun.store, workers, aside) if aside else None
    launch.say([starting(workers, connection.resources_of_worker(scaling))] if keeps else [])
    return launch.launch(
        run,
        sources,
        scaling,
        begun.run_config,
        beside,
        torch_config=launch.process_group(args),
        lease=begun.lease,
    )


def _build_sources(
    errand: RunRequest,
    specs: Mapping[str, LoaderSpec],
    store: CheckpointStore,
    start: Start,
    build: Callable[[LoaderSpec], BuiltSource[AnySource]],
) -> tuple[dict[str, BuiltSource[AnySource]], Start]:
    """Encodes and plans a run's data, checks it against the checkpoint, and sets earlier runs aside.

    Returns:
        The batch sources, and the checkpoint the run starts from, which may have been moved.
    """
    anew = errand.args.ignore_data_skip  # the user accepts different data
    if not anew and TRAIN in specs:
        resume.check_settings(start, specs[TRAIN].settings)
    if errand.keeps and start.begins_anew:
        # Before encoding, which takes long: a run killed during it must not resume from another run's
        # checkpoint.
        start = resume.set_aside(store, start)
    built = {name: build(spec) for name, spec in specs.items()}
    launch.announce(built, store)
    if not anew:
        resume.check_fingerprint(start, facts_of(built))
    if errand.keeps:
        start = resume.set_aside(store, start)
        if errand.args.ledger:
            resume.bring_ledger(store, start)
    return built, start


def _evaluates_beside(args: SentenceTransformerTrainingArguments) -> bool:
    evaluates = IntervalStrategy(args.eval_strategy) != IntervalStrategy.NO
    return evaluates and args.eval_on == EvalOn.BACKGROUND


def _check_ledger(store: CheckpointStore) -> None:
    if not store.is_local:
        raise ValueError(
            f"ledger=True needs a run folder on a local or mounted disk; {store.path} is not one."
        )
