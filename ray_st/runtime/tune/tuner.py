"""A search on Ray Tune: it runs the trials that a study asks for, several at a time, and stops losers."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.train import RunConfig
from ray.tune.schedulers import TrialScheduler
from ray.tune.trainable import wrap_function

from ray_st.runtime.train.ray_configs import given_name, given_storage
from ray_st.runtime.train.storage import open_store
from ray_st.runtime.tune.generations import Generations, Population
from ray_st.runtime.tune.halving import Halving, Rungs
from ray_st.runtime.tune.hung_trials import HANG
from ray_st.runtime.tune.schedulers import OBJECTIVE, make_scheduler, remember
from ray_st.runtime.tune.search_stop import SearchStop, StopAtEvaluation
from ray_st.runtime.tune.study_searcher import Study, StudySearcher, Watcher, configured
from ray_st.runtime.tune.trial_loop import NUMBER, TrialContext, run_trial
from ray_st.runtime.tune.trial_resources import Need
from ray_st.runtime.tune.waiting import Waiting, WaitingScheduler, WaitingSearcher
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.endings import Interrupted
from ray_st.util.events import notes

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupted search is interrupted, and goes on when started again
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean in a trial what they mean in training
}
_RAY_FOLDER = "ray"


@dataclass(frozen=True)
class TunerSettings:
    """How a search is run.

    Args:
        folder: Its folder on this machine.
        direction: ``minimize`` or ``maximize``, of the first objective.
        scheduler: As for :func:`ray_st.runtime.tune.schedulers.make_scheduler`; None for none.
        population: The rules of a population, in place of a scheduler; None for trials that have nothing to do with each
            other.
        grace_period: Evaluations that a trial has before it can be stopped.
        reduction_factor: One in how many trials goes on at each rung.
        need: What a trial asks of the cluster.
        concurrent: Most trials at a time; None for as many as there is room for.
        max_failures: How often a trial whose process is lost is started again.
        time_budget_s: Seconds for the whole search; None for no limit.
    """

    folder: Path
    direction: str
    scheduler: Any
    grace_period: int
    reduction_factor: int
    need: Need
    concurrent: int | None
    max_failures: int
    time_budget_s: float | None
    population: Population | None = None


def search_store(run_config: RunConfig | None, folder: Path, search_id: str) -> CheckpointStore:
    """Where trials keep their checkpoints: in the search's folder, or where the user's configuration has storage.

    There each search has a folder of its own: the storage may hold an earlier one of the same name, begun by a driver
    whose machine and folder are gone.

    Args:
        run_config: The user's, or None.
        folder: The search's folder on this machine.
        search_id: What tells the search from others of its name.
    """
    if run_config is None or given_storage(run_config) is None:
        return CheckpointStore(str(folder))
    # Ray names a configuration without a name after the time: a search that goes on would not find its trials.
    parts = [given_name(run_config) or "searches", folder.name, search_id]
    name = "/".join(str(part) for part in parts if part)
    return open_store(dataclasses.replace(run_config, name=name), folder.name)


def run_search(
    study: Study, kit: TrialContext, settings: TunerSettings, watcher: Watcher, stop: SearchStop, lease: Lease
) -> None:
    """Runs a study's trials until there are enough, or the search is told to stop.

    Args:
        study: The study.
        kit: What all trials share.
        settings: How to run them.
        watcher: Called on the driver after each evaluation, and each trial's end, is noted.
        stop: Tells it to stop.
        lease: The search's folder, held.

    Raises:
        Interrupted: If it was told to stop, and trials are left.
        LeaseLost: If another driver took the search's folder.
        ValueError: If no trial can have an objective.
    """
    lease.when_lost(stop.ask)
    try:
        if not stop.asked:
            _run_trials(study, kit, settings, watcher, stop)
    finally:
        lease.fence.check()  # whatever came of it, that is why
    left = study.left + sum(record.state == "RUNNING" for record in study.records)
    if stop.asked and left:
        raise Interrupted(
            f"The search was told to stop; {left} trials are left. Started again with name={settings.folder.name!r} it goes on."
        )


def _run_trials(
    study: Study, kit: TrialContext, settings: TunerSettings, watcher: Watcher, stop: SearchStop
) -> None:
    mode = settings.direction[:3]
    searcher, scheduler = _scheduled(study, kit, settings, watcher, stop)
    trainable = tune.with_resources(_trainable(kit), settings.need.own_process())
    told = (
        scheduler is settings.scheduler and not scheduler.metric
    )  # a user's that does not know what to look at
    with _environment(settings.folder / _RAY_FOLDER) as folder:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE if told else None,
                mode=mode if told else None,
                search_alg=searcher,
                scheduler=scheduler,
                # Where trials wait the searcher says itself when there are enough: Ray keeps processes until then.
                num_samples=study.left + (kit.keeps is not None),
                reuse_actors=True,
                time_budget_s=settings.time_budget_s,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=settings.max_failures),
                stop=StopAtEvaluation(stop),
                callbacks=[_Losses(study)],
                verbose=0,
            ),
        ).fit()
    searcher.stop_rest()
    if searcher.spoilt is not None:
        raise ValueError(searcher.spoilt)


def _scheduled(
    study: Study, kit: TrialContext, settings: TunerSettings, watcher: Watcher, stop: SearchStop
) -> tuple[StudySearcher, TrialScheduler]:
    """What hands out the trials, and what decides on them."""
    most = settings.concurrent or 1_000_000

    def limit() -> int:
        return min(most, max(settings.need.room(), 1))

    waiting: Waiting | None = None
    if settings.population is not None:
        waiting = Generations(study, settings.population, kit.trial_store, watcher)
    elif isinstance(kit.keeps, Rungs):
        waiting = Halving(study, kit.keeps, settings.direction == "maximize")
    if waiting is not None and kit.keeps is not None:
        return WaitingSearcher(waiting, limit, watcher, stop), WaitingScheduler(
            waiting, kit.keeps, limit, stop
        )
    mode = settings.direction[:3]
    scheduler = make_scheduler(settings.scheduler, mode, settings.grace_period, settings.reduction_factor)
    remember(scheduler, [record.history for record in study.records if record.state != "RUNNING"])
    return StudySearcher(study, limit, watcher, stop), scheduler


def _trainable(kit: TrialContext) -> Any:
    """A trial as Ray Tune's trainable, whose process ends only when its trial has."""
    function: Any = wrap_function(tune.with_parameters(run_trial, kit=kit), name="trial")

    class Trial(function):
        def cleanup(self) -> None:
            from ray_st.runtime.tune.trial_loop import ENDED, ENDING_S  # of the trial's process

            super().cleanup()
            ENDED.wait(ENDING_S)

    return Trial


class _Losses(tune.Callback):
    """Says why a trial's process was lost; the searcher is only told that it was.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say(trial, "it is started again")
        trial.set_config(configured(self._study.records[trial.config[NUMBER]]))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say(trial, "it is given up")

    def _say(self, trial: Any, what: str) -> None:
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        why = trial.last_result.get(HANG) or (lines[-1] if lines else "no reason known")
        notes.info(f"trial {trial.config[NUMBER]} was lost, {what}: {why}")


@contextmanager
def _environment(folder: Path) -> Iterator[Path]:
    """Settings of Ray Tune that it only takes from the environment, and its own files, which nothing here needs."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # how trials ended is told from the records
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        logger.setLevel(level)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
