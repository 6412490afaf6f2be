"""A search on Ray Tune: runs the trials a study suggests, several at a time, and stops the bad ones."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from ray_st.runtime.tune.generations import Generations
from ray_st.runtime.tune.hung_trials import HANG
from ray_st.runtime.tune.schedulers import make_scheduler, remember
from ray_st.runtime.tune.search_stop import SearchStop, StopAtEvaluation
from ray_st.runtime.tune.study_searcher import StudySearcher, configured
from ray_st.runtime.tune.trial_loop import NUMBER, TrialContext, TrialTrainable
from ray_st.runtime.tune.trial_resources import Limit, Need
from ray_st.runtime.tune.waiting import Waiting, WaitingScheduler, WaitingSearcher
from ray_st.study.constraints import broken_for_good
from ray_st.study.halving import Halving, Rungs
from ray_st.study.population import Population
from ray_st.study.search_options import SearchOptions
from ray_st.study.study import Study
from ray_st.study.watcher import Watcher
from ray_st.training.checkpoint.lease import Lease
from ray_st.util.endings import Interrupted
from ray_st.util.events import notes

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C interrupts the search; started again, it continues
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # nothing is restored from Ray Tune's own state
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in training
}
_STARTING = "TUNE_MAX_PENDING_TRIALS_PG"
"""How many trials may be waiting for their processes at once."""

_RAY_FOLDER = "ray"


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
        trainable: Runs a trial in its process; takes ``kit`` as a list with one reference.
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
    trainable: type[tune.Trainable] = TrialTrainable

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
        trainable = tune.with_parameters(self.trainable, kit=[ray.put(self.kit)])
        # By default Ray Tune starts one process at a time where a searcher suggests the trials.
        starting = {_STARTING: os.environ.get(_STARTING, str(self._limit()))}
        with _environment(self.folder / _RAY_FOLDER, starting) as folder:
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

    @cached_property
    def _limit(self) -> Limit:
        return Limit(self.need, self.options.max_concurrent_trials)

    def _scheduled(self) -> tuple[StudySearcher, TrialScheduler]:
        """What hands out the trials, and what decides about them."""
        must_checkpoint, waiting = self.kit.must_checkpoint, self._waiting()
        limit = self._limit
        if waiting is not None and must_checkpoint is not None:
            return (
                WaitingSearcher(waiting, limit, self.watcher, self.stop),
                WaitingScheduler(waiting, must_checkpoint, limit, self.stop),
            )
        options = self.options
        scheduler = make_scheduler(
            options.scheduler,
            self._mode,
            options.grace_period,
            options.reduction_factor,
            self.kit.objective.directions,
        )
        for number in sorted(remember(scheduler, self.study.evaluations, self.maximize)):
            record = self.study.records[number]
            if record.is_running and not record.has_finished_training:  # its driver was killed in between
                reason = broken_for_good(record.violations)
                self.watcher.ended(self.study.tell(number, "PRUNED", reason))
        return StudySearcher(self.study, limit, self.watcher, self.stop), scheduler

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

    def __getstate__(self) -> dict[str, Any]:
        return {}  # nothing is restored from what Ray Tune pickles

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
def _environment(folder: Path, starting: Mapping[str, str]) -> Iterator[Path]:
    """Sets what Ray Tune only reads from the environment, and removes its files, which nothing needs."""
    wanted = {**_ENVIRONMENT, **starting}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
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
