"""Runs a trainer's task on the cluster's workers and returns its result to the driver."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from ray.train import RunConfig, ScalingConfig
from transformers import IntervalStrategy

from ray_st.data.token_cache import CacheUse, TokenCache
from ray_st.runtime.cluster import connection
from ray_st.runtime.cluster.node_attention import check_attention, check_attention_of_workers
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.cluster_source import build_on_cluster
from ray_st.runtime.train import launch, storage, this_process
from ray_st.runtime.train.background_evaluation import BackgroundEval, resources_beside
from ray_st.runtime.train.process_group import process_group
from ray_st.training.argument_checks import check_precision
from ray_st.training.callbacks.run_header import header, starting
from ray_st.training.checkpoint import resume
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.resume import Start
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import prompt_lengths
from ray_st.training.data.source_builder import AnySource, BuiltSource, cache_use_of, facts_of, sources_of
from ray_st.training.data.specs import TRAIN, LoaderSpec, RunResult, RunSpec
from ray_st.training.loop.batch_memory import BuildWithinMemory, texts_at_once
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import EvalOn, SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.filesystems import scratch_folder
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
        attention: The attentions of the model and its losses that nodes may lack.
    """

    args: SentenceTransformerTrainingArguments
    weights: str
    subject: str
    build: Callable[[WorkerContext], HfLoop]
    task: Callable[[Any, str | None], RunResult]
    make_parts: Callable[[int], dict[str, LoaderSpec]]
    resume: str | bool | None
    keeps: bool
    scaling_config: ScalingConfig | None = None
    run_config: RunConfig | None = None
    attention: frozenset[str] = frozenset()


def dispatch(request: RunRequest) -> RunResult:
    """Runs a request on workers, or in this process if ``num_workers=0``.

    Raises:
        ValueError: If the run cannot work; raised before any worker starts.
    """
    args, keeps = request.args, request.keeps
    with ExitStack() as stack:
        # Take the folder before starting Ray: if two runs want the same one, the second fails at once.
        folder = nullcontext(str(args.output_dir)) if keeps else scratch_folder(args.scratch_dir)
        run_config = launch.complete_run_config(
            request.run_config if keeps else None, stack.enter_context(folder)
        )
        store = storage.open_store(run_config, uuid.uuid4().hex, args.scratch_dir)
        lease = None
        if keeps:
            store, lease = stack.enter_context(storage.taken(store))
        if keeps and args.ledger and not store.is_local:
            raise ValueError(
                f"ledger=True needs a run folder on a local or mounted disk; {store.path} is not one."
            )
        start = resume.find_checkpoint(store, request.resume, args.resume_only_model)
        resume.check_model(start, request.weights)
        if keeps:
            launch.say(header(args, str(run_config.name), store.path, request.subject))
        cache = storage.open_token_cache(args, store if keeps else None)
        run = _Run(request, run_config, store, start, lease, cache)
        if launch.runs_here(request.scaling_config):
            stack.enter_context(handlers_kept())
            spec, built = run.specified(1, this_process.build_source)
            result = this_process.launch(spec, sources_of(built), store, lease)
        else:
            stack.enter_context(connection.connected())
            result = run.on_workers()
        if keeps:
            launch.say([f"checkpoints are in {store.path}; the model here has the trained weights"])
        return dataclasses.replace(result, store=store)


@dataclass(frozen=True)
class _Run:
    """A request whose run folder is ready.

    Args:
        request: The request.
        run_config: Storage and failure handling of the run.
        store: The run's folder.
        start: The checkpoint that the run starts from.
        lease: The lease on the folder; None for a run that keeps nothing.
        cache: Where encoded rows are kept for other runs; None for nowhere.
    """

    request: RunRequest
    run_config: RunConfig
    store: CheckpointStore
    start: Start
    lease: Lease | None
    cache: TokenCache | None

    def on_workers(self) -> RunResult:
        """Runs it on the cluster's workers."""
        args, keeps, asked = self.request.args, self.request.keeps, self.request.scaling_config
        scaling = launch.resolve_scaling(asked, args.use_cpu)
        span, each = launch.workers_of(scaling), connection.resources_of_worker(scaling)
        check_precision(args, bool(scaling.use_gpu))
        in_background = keeps and _evaluates_in_background(args)
        eval_resources = resources_beside(args.eval_resources, scaling) if in_background else {}
        connection.check_fits(scaling, eval_resources)
        check_attention_of_workers(self.request.attention, scaling, self.run_config)
        if in_background:
            check_attention(self.request.attention, [eval_resources])
        all_cores = span.most == 1 and connection.takes_all_cores(asked)
        run, built = self.specified(span.most, build_on_cluster, all_cores, elastic=not span.is_fixed)
        if keeps:
            launch.say([starting(span, each)])
        result = launch.launch(
            run,
            sources_of(built),
            scaling if keeps else launch.with_fixed_number(scaling),
            self.run_config,
            BackgroundEval(self.store, span.most, eval_resources) if in_background else None,
            torch_config=process_group(scaling, args),
            lease=self.lease,
        )
        self._close(built)
        return result

    def specified(
        self,
        workers: int,
        build: Callable[[LoaderSpec], BuiltSource[AnySource]],
        all_cores: bool = False,
        elastic: bool = False,
    ) -> tuple[RunSpec, dict[str, BuiltSource[AnySource]]]:
        """The run, with its batch sources; raises if the data is unusable."""
        args = self.request.args
        specs = {
            name: dataclasses.replace(spec, token_cache=self.cache)
            for name, spec in self.request.make_parts(workers).items()
        }
        built, start = self._build(specs, build)
        make = self.request.build
        run = RunSpec(
            run_id=self.store.run_id,
            build=BuildWithinMemory(make, texts_at_once(specs, workers), workers) if elastic else make,
            task=self.request.task,
            sources=tuple(built),
            start=start,
            prompt_lengths=prompt_lengths(specs),
            bar=has_bar() and not args.disable_tqdm,
            log_level=args.get_process_log_level(),
            facts=facts_of(built),
            ledger=args.ledger and self.request.keeps,
            fence=self.store.fence,
            all_cores=all_cores,
            keeps_weights=self.request.keeps,
        )
        return run, built

    def _build(
        self, specs: Mapping[str, LoaderSpec], build: Callable[[LoaderSpec], BuiltSource[AnySource]]
    ) -> tuple[dict[str, BuiltSource[AnySource]], Start]:
        """Encodes and plans the data, checks it against the checkpoint, and sets earlier runs aside.

        Returns:
            The batch sources, and the checkpoint the run starts from, which may have been moved.
        """
        start, keeps, args = self.start, self.request.keeps, self.request.args
        same_data = not args.ignore_data_skip  # otherwise the user accepts different data
        if same_data and TRAIN in specs:
            resume.check_settings(start, specs[TRAIN].settings)
        if keeps and start.begins_anew:
            # Before encoding, which takes long: a run killed during it must not resume from another run's
            # checkpoint.
            start = resume.set_aside(self.store, start)
        built = {name: build(spec) for name, spec in specs.items()}
        if self.cache is not None and not any(one.streams for one in built.values()):
            notes.info(self.cache.finish(cache_use_of(built)))
        launch.announce(built, self.store)
        if same_data:
            resume.check_fingerprint(start, facts_of(built))
        if keeps:
            start = resume.set_aside(self.store, start)
            if args.ledger:
                resume.bring_ledger(self.store, start)
        return built, start

    def _close(self, built: Mapping[str, BuiltSource[RayBatchSource]]) -> None:
        """Tells what became known of data that was encoded while the run went on."""
        seen = {name: one.source.seen() for name, one in built.items() if one.streams}
        for name, datasets in seen.items():
            for dataset, found in datasets.items():
                launch.list_faults(name, dataset, found.faults, found.unusable, self.store)
        if seen and self.cache is not None:
            uses = [found.cache_use for datasets in seen.values() for found in datasets.values()]
            notes.info(self.cache.finish(CacheUse.joined([cache_use_of(built), *uses])))


def _evaluates_in_background(args: SentenceTransformerTrainingArguments) -> bool:
    evaluates = IntervalStrategy(args.eval_strategy) != IntervalStrategy.NO
    return evaluates and args.eval_on == EvalOn.BACKGROUND
