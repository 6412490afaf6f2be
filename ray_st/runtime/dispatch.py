"""A trainer's task, from the driver to the cluster's workers and back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ray.train import RunConfig, ScalingConfig
from transformers import IntervalStrategy

from ray_st.runtime import cluster, launch, storage
from ray_st.runtime.beside import Beside, resources_beside
from ray_st.training import resume
from ray_st.training.checkpoint import CheckpointStore
from ray_st.training.parts import prompt_lengths
from ray_st.training.place import Place
from ray_st.training.resume import Start
from ray_st.training.run import TRAIN_FEED, FeedPart, Outcome, Run
from ray_st.training.run_header import header, starting
from ray_st.training_args import EvalOn, SentenceTransformerTrainingArguments
from ray_st.util.screen import has_bar


@dataclass(frozen=True)
class Errand:
    """What a trainer has done on workers.

    Args:
        args: Its training arguments.
        weights: What there is to say of its model's weights.
        subject: What is trained, and with what, for the first line that users see.
        build: Makes it again at a worker's place.
        task: What it does there.
        make_parts: Makes the run's data parts for a number of workers; refuses what cannot work.
        resume: The checkpoint to start from: a path, True for the newest of the run's folder, or nothing.
        keeps: Whether the run writes into the output folder.
        scaling_config: Number and kind of workers, or None for the cluster's default.
        run_config: Name, storage and failure handling, or None for the default.
    """

    args: SentenceTransformerTrainingArguments
    weights: str
    subject: str
    build: Callable[[Place], Any]
    task: Callable[[Any, str | None], Any]
    make_parts: Callable[[int], dict[str, FeedPart]]
    resume: str | bool | None
    keeps: bool
    scaling_config: ScalingConfig | None = None
    run_config: RunConfig | None = None


def dispatch(errand: Errand) -> Outcome:
    """Runs an errand on workers.

    Raises:
        ValueError: If the run cannot work; before any worker starts.
    """
    args, keeps = errand.args, errand.keeps
    with ExitStack() as stack:
        # The folder first, before Ray is started: of two runs that want it one is refused at once.
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
        stack.enter_context(cluster.connected())
        scaling = launch.resolve_scaling(errand.scaling_config, args.use_cpu)
        workers = launch.workers_of(scaling)
        aside = resources_beside(args.eval_resources, scaling) if keeps and _evaluates_beside(args) else {}
        cluster.check_fits(scaling, aside)
        parts = errand.make_parts(workers)
        fed, start = _feed(errand, parts, store, start)
        run = Run(
            run_id=store.run_id,
            build=errand.build,
            task=errand.task,
            feeds=tuple(fed),
            start=start,
            prompt_lengths=prompt_lengths(parts),
            bar=has_bar() and not args.disable_tqdm,
            log_level=args.get_process_log_level(),
            facts=storage.facts_of(fed),
            ledger=args.ledger and keeps,
            fence=store.fence,
            all_cores=workers == 1 and cluster.takes_all_cores(errand.scaling_config),
        )
        feeds = {name: part.feed for name, part in fed.items()}
        beside = Beside(store, workers, aside) if aside else None
        group = launch.process_group(args)
        launch.say([starting(workers, cluster.resources_of_worker(scaling))] if keeps else [])
        outcome = launch.launch(run, feeds, scaling, run_config, beside, torch_config=group, lease=lease)
        launch.say(
            [f"checkpoints are in {store.path}; the model here has the trained weights"] if keeps else []
        )
        return outcome


def _feed(
    errand: Errand, parts: Mapping[str, FeedPart], store: CheckpointStore, start: Start
) -> tuple[dict[str, launch.Fed], Start]:
    """Encodes and plans a run's data, refuses what does not fit its checkpoint, and clears its folder of earlier runs.

    Returns:
        The feeds, and where the run starts, which may have been moved.
    """
    anew = errand.args.ignore_data_skip  # the user knows that the data is another
    if not anew and TRAIN_FEED in parts:
        resume.check_settings(start, parts[TRAIN_FEED].settings)
    if errand.keeps and start.begins_anew:
        # Before encoding, which takes long: a run that is killed there is not to go on from another one's checkpoint.
        start = resume.set_aside(store, start)
    fed = {name: launch.make_feed(part) for name, part in parts.items()}
    launch.announce(fed, store)
    if not anew:
        resume.check_fingerprint(start, storage.facts_of(fed))
    if errand.keeps:
        start = resume.set_aside(store, start)
        if errand.args.ledger:
            resume.bring_ledger(store, start)
    return fed, start


def _evaluates_beside(args: SentenceTransformerTrainingArguments) -> bool:
    evaluates = IntervalStrategy(args.eval_strategy) != IntervalStrategy.NO
    return evaluates and args.eval_on == EvalOn.BACKGROUND


def _check_ledger(store: CheckpointStore) -> None:
    if not store.is_local:
        raise ValueError(
            f"ledger=True needs a run folder on a local or mounted disk; {store.path} is not one."
        )
