"""A search on Ray Tune: runs the trials a study suggests, several at a time, and stops the bad ones."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import RunConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from ray_st.runtime.train.ray_configs import given_name, given_storage
from ray_st.runtime.train.storage import open_store
from ray_st.runtime.tune.generations import Generations
from ray_st.runtime.tune.hung_trials import HANG
from ray_st.runtime.tune.schedulers import make_scheduler, remember, replay
from ray_st.runtime.tune.search_stop import SearchStop, StopAtEvaluation
from ray_st.runtime.tune.study_searcher import StudySearcher, configured
from ray_st.runtime.tune.trial_loop import NUMBER, TrialContext, TrialTrainable
from ray_st.runtime.tune.trial_resources import Need
from ray_st.runtime.tune.waiting import Waiting, WaitingScheduler, WaitingSearcher
from ray_st.study.halving import Halving, Rungs
from ray_st.study.population import Population
from ray_st.study.search_options import SearchOptions
from ray_st.study.study import Study
from ray_st.study.watcher import Watcher
from ray_st.training.checkpoint.lease import Lease
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.endings import Interrupted
from ray_st.util.events import notes

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C interrupts the search; started again, it continues
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in training
}
_RAY_FOLDER = "ray"


def search_store(run_config: RunConfig | None, folder: Path, search_id: str) -> CheckpointStore:
    """Where trials keep their checkpoints: in the search's folder, or in the user's storage.

    Each search has its own folder there: the storage may hold an earlier search of the same name, started by
    a driver whose machine and folder are gone.

    Args:
        run_config: The user's, or None.
        folder: The search's folder on this machine.
        search_id: The search's unique identifier.
    """
    if run_config is None or given_storage(run_config) is None:
        return CheckpointStore(str(folder))
    # Ray names a configuration without a name after the time: a continued search would not find its trials.
    parts = [given_name(run_config) or "searches", folder.name, search_id]
    name = "/".join(str(part) for part in parts if part)
    return open_store(dataclasses.replace(run_config, name=name), folder.name)


@dataclass(frozen=True)
class SearchRun:
    """A search's trials on Ray Tune.

    Args:
        study: The study.
        kit: What all trials share.
        options: The search's options.
        folder: Its folder on this machine.
        maximize: Whether more is better, of the first objective.
        need: The resources of a trial.
        population: The rules of a population, in place of a scheduler; None for independent trials.
        watcher: Called on the driver after each evaluation and each trial's end is recorded.
        stop: Asks the search to stop.
        name: The search's name, by which it is continued.
    """

    study: Study
    kit: TrialContext
    options: SearchOptions
    folder: Path
    maximize: bool
    need: Need
    population: Population | None
    watcher: Watcher
    stop: SearchStop
    name: str

    def run(self, lease: Lease) -> None:
        """Runs trials until there are enough, or the search is asked to stop.

        Args:
            lease: The lease of the search's folder.

        Raises:
            Interrupted: If it was asked to stop, and trials are left.
            LeaseLost: If another driver took the search's folder.
            ValueError: If no trial can have an objective.
            StorageLost: If the storage did not answer for too long; all is in the journal.
        """
        lease.when_lost(self.stop.ask)
        try:
            if not self.stop.asked:
                self._run_trials()
        finally:
            lease.fence.check()  # a lost lease explains any other error
        left = self.study.left + sum(record.is_running for record in self.study.records)
        if self.stop.asked and left:
            raise Interrupted(
                f"The search was asked to stop; {left} trials are left. Start it again with "
                f"name={self.name!r} to continue."
            )

    def _run_trials(self) -> None:
        searcher, scheduler = self._scheduled()
        trainable = tune.with_parameters(TrialTrainable, kit=[ray.put(self.kit)])
        with _environment(self.folder / _RAY_FOLDER) as folder:
            tune.Tuner(
                tune.with_resources(trainable, self.need.own_process()),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=scheduler,
                    # Where trials wait, the searcher ends the search itself: Ray keeps processes until then.
                    num_samples=self.study.left + (self.kit.must_checkpoint is not None),
                    reuse_actors=True,
                    time_budget_s=self.options.time_budget_s,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="trials",
                    storage_path=str(folder),
                    failure_config=tune.FailureConfig(max_failures=self.options.max_failures),
                    stop=StopAtEvaluation(self.stop),
                    callbacks=[_LostTrials(self.study)],
                    verbose=0,
                ),
            ).fit()
        searcher.stop_rest()
        if searcher.lost is not None:
            raise searcher.lost
        if searcher.fatal is not None:
            raise ValueError(searcher.fatal)

    @property
    def _mode(self) -> str:
        return "max" if self.maximize else "min"

    def _limit(self) -> int:
        """The most trials at a time, for the cluster's current size."""
        room = max(self.need.room(), 1)
        return min(self.options.max_concurrent_trials or room, room)

    def _scheduled(self) -> tuple[StudySearcher, TrialScheduler]:
        """What hands out the trials, and what decides about them."""
        must_checkpoint, waiting = self.kit.must_checkpoint, self._waiting()
        if waiting is not None and must_checkpoint is not None:
            return (
                WaitingSearcher(waiting, self._limit, self.watcher, self.stop),
                WaitingScheduler(waiting, must_checkpoint, self._limit, self.stop),
            )
        options = self.options
        scheduler = make_scheduler(
            options.scheduler,
            self._mode,
            options.grace_period,
            options.reduction_factor,
            self.kit.objective.directions,
        )
        ended = [record.history for record in self.study.records if not record.is_running]
        remember(scheduler, ended, self.maximize)
        continued = partial(replay, scheduler, maximize=self.maximize)
        return StudySearcher(self.study, self._limit, self.watcher, self.stop, continued), scheduler

    def _waiting(self) -> Waiting | None:
        if self.population is not None:
            return Generations(self.study, self.population, self.kit.trial_store, self.watcher.changed)
        if isinstance(self.kit.must_checkpoint, Rungs):
            return Halving(self.study, self.kit.must_checkpoint, self.maximize)
        return None


class _LostTrials(tune.Callback):
    """Logs why a trial's process was lost; the searcher only learns that it was.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._log(trial, "it is started again")
        trial.set_config(configured(self._study.records[trial.config[NUMBER]]))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._log(trial, "it is given up")

    def _log(self, trial: Trial, what: str) -> None:
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        why = trial.last_result.get(HANG) or (lines[-1] if lines else "no reason known")
        notes.info(f"trial {trial.config[NUMBER]} was lost, {what}: {why}")


@contextmanager
def _environment(folder: Path) -> Iterator[Path]:
    """Sets what Ray Tune only reads from the environment, and removes its files, which nothing needs."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # how trials ended is shown from the records
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        logger.setLevel(level)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
