"""A trial on several workers: it asks after each evaluation whether to continue.

A stopped trial ends like a finished one: its workers leave the loop together, and wait for the next trial.
Nothing is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig

from ray_st.runtime.cluster.handles import Actor, start_actor
from ray_st.runtime.train.process_group import process_group
from ray_st.runtime.train.storage import taken
from ray_st.runtime.tune.kept_workers import workers
from ray_st.runtime.tune.shared_data import source_for_workers
from ray_st.runtime.tune.trial_loop import (
    KNOWN,
    NAME,
    NUMBER,
    VALUES,
    Reports,
    TrialContext,
    build,
    data_parts,
    evaluate_end,
)
from ray_st.runtime.tune.trial_measures import TrialMeasures
from ray_st.runtime.tune.trial_proxy import TrialProxy
from ray_st.study.kept_weights import Saving
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import prompt_lengths
from ray_st.training.data.source_builder import facts_of, sources_of
from ray_st.training.data.specs import RunResult, RunSpec
from ray_st.training.distributed import collectives
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.training.trainer_spec import TrainerSpec, Trial
from ray_st.training.worker_context import WorkerContext

_LOOK_S = 1.0


def train_on_workers(
    config: Mapping[str, Any], kit: TrialContext, send: Callable[[dict[str, Any]], None]
) -> None:
    """Runs a trial on workers from the trial's own process, which needs hardly any resources itself.

    Args:
        config: Number, hyperparameters and name.
        kit: What all trials share.
        send: Reports metrics; raises if the trial is to stop.
    """
    assert kit.scaling is not None
    trial = kit.make(config[NUMBER], config[VALUES], config[NAME])
    proxy = start_actor(TrialProxy, num_cpus=0, max_concurrency=3)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_launch, trial, config, kit, proxy)
        while not running.done():
            report: dict[str, Any] | None = ray.get(proxy.next.remote(_LOOK_S))
            if report is not None:
                _pass_on(report, proxy, running, send)
        running.result()


def _pass_on(
    report: dict[str, Any],
    proxy: Actor,
    running: Future[None],
    send: Callable[[dict[str, Any]], None],
) -> None:
    goes_on = False
    try:
        send(report)
        goes_on = True
    finally:
        ray.get(proxy.decide.remote(goes_on))
        if not goes_on:
            running.result()  # the workers leave together


def _launch(trial: Trial, config: Mapping[str, Any], kit: TrialContext, proxy: Actor) -> None:
    assert kit.scaling is not None
    assert isinstance(kit.scaling.num_workers, int)
    specs = data_parts(trial, kit.scaling.num_workers)
    built = {name: source_for_workers(name, spec, kit.data) for name, spec in specs.items()}
    store = kit.trial_store(config[NUMBER])
    with taken(store) as (store, lease):
        run = RunSpec(
            run_id=store.run_id,
            build=_Build(
                trial.description,
                proxy,
                kit.must_checkpoint,
                config[KNOWN],
                kit.objective.measures,
                kit.saving,
            ),
            task=_train_task,
            sources=tuple(built),
            prompt_lengths=prompt_lengths(specs),
            facts=facts_of(built),
            fence=lease.fence,
        )
        torch_config = process_group(kit.scaling, trial.description.options["args"])
        with workers(kit.scaling, _run_config(store), torch_config) as group:
            group.run(run, sources_of(built), store, lease)


def _run_config(store: CheckpointStore) -> RunConfig:
    """Ray Train's configuration of workers that begin with a trial."""
    parent, _, name = store.path.rpartition("/")
    return RunConfig(
        name=name,
        storage_path=parent,
        storage_filesystem=None if store.is_local else store.filesystem,
        failure_config=FailureConfig(max_failures=0),  # a lost trial is started again as a whole
    )


@dataclass(frozen=True)
class _Build:
    """Makes a trial's trainer on a worker.

    Args:
        description: What to make.
        proxy: Where its metrics go.
        must_checkpoint: As for :class:`Reports`.
        known: Likewise.
        wanted: As for :class:`ray_st.runtime.tune.trial_measures.TrialMeasures`.
        saving: Likewise.
    """

    description: TrainerSpec
    proxy: Actor
    must_checkpoint: Callable[[int], bool] | None
    known: int
    wanted: frozenset[str] = frozenset()
    saving: Saving = Saving.NEVER

    def __call__(self, context: WorkerContext) -> HfLoop:
        def send(report: dict[str, Any]) -> None:
            mine: bool | None = ray.get(self.proxy.ask.remote(report)) if context.world.is_first else None
            if not collectives.broadcast_object(mine):
                trainer.control.should_training_stop = True
                reports.stopped = True

        measures = TrialMeasures(self.wanted)
        trainer = build(self.description, context)
        reports = Reports(send, self.must_checkpoint, self.known, measures, self.saving)
        reports.attach(trainer)
        return trainer


def _train_task(trainer: HfLoop, resume_from: str | None) -> RunResult:
    result = trainer.train(resume_from_checkpoint=resume_from)
    evaluate_end(trainer)
    return RunResult(result=result, state="")
