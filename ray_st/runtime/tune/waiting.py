"""Trials on Ray Tune that wait for others: each rests after certain evaluations until it may continue.

A trial that waits has a checkpoint, keeps its process until another trial wants it, and counts as using no
resources.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ray_st.runtime.tune.schedulers import TIME
from ray_st.runtime.tune.search_stop import SearchStop
from ray_st.runtime.tune.study_searcher import StudySearcher, configured
from ray_st.runtime.tune.trial_loop import NUMBER
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from ray_st.study.watcher import Watcher

_START_S = 60.0
"""How long a new trial waits for a process of its own before it gets that of a waiting trial."""


class Waiting(Protocol):
    """Decides which trials wait, and for how long, from the study's records alone.

    Attributes:
        study: The study.
        closed: Whether no more trials will be suggested, although some are missing.
    """

    study: Study
    closed: bool

    def ready(self, record: TrialRecord) -> bool:
        """Whether a trial need not wait for others."""

    def eliminated(self, record: TrialRecord) -> bool:
        """Whether a waiting trial has nothing left to wait for, and is stopped."""

    def priority(self, record: TrialRecord) -> tuple[int, int]:
        """Sort key of the trials that are ready: the least one continues first."""

    def settle(self) -> None:
        """Decides what can be decided."""


class WaitingSearcher(StudySearcher):
    """Hands out trials; waiting ones do not count towards the limit.

    Args:
        waiting: Decides which trials wait.
        limit: Gives the most trials at a time, for the cluster's current size.
        watcher: Called after an evaluation or an end is recorded.
        stop: As for :class:`ray_st.runtime.tune.study_searcher.StudySearcher`.
    """

    def __init__(
        self, waiting: Waiting, limit: Callable[[], int], watcher: Watcher, stop: SearchStop
    ) -> None:
        super().__init__(waiting.study, limit, watcher, stop)
        self._waiting = waiting

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; FINISHED when all have ended: Ray reuses processes until then."""
        if self._stop.asked:
            return None if self._numbers else Searcher.FINISHED
        self._waiting.closed = self.fatal is not None
        self._waiting.settle()
        records = self._study.records
        asked = None
        if self.fatal is None:
            if sum(self._waiting.ready(records[n]) for n in self._numbers.values()) >= self._limit():
                return None
            with self._mirrored():
                asked = self._study.ask(self._waiting.ready)
        if asked is None:
            return None if self._numbers else self._finish()
        self._numbers[trial_id] = asked.number
        return configured(asked)

    def _finish(self) -> Any:
        """Ends trials that waited when the driver was killed, and were not handed out again."""
        for record in self._study.records:
            if self._waiting.eliminated(record) and self.lost is None:
                self._watcher.ended(self._study.tell(record.number, "PRUNED"))
        return Searcher.FINISHED


class WaitingScheduler(FIFOScheduler):
    """Makes trials wait after evaluations, and continue when they are ready.

    Args:
        waiting: Decides which trials wait.
        waits_after: Whether a trial waits after an evaluation, by its index.
        limit: Gives the most trials at a time, for the cluster's current size.
        stop: Whether the search was asked to stop; then no trial keeps waiting, or starts.
    """

    def __init__(
        self,
        waiting: Waiting,
        waits_after: Callable[[int], bool],
        limit: Callable[[], int],
        stop: SearchStop,
    ) -> None:
        super().__init__()
        self._waiting, self._waits_after, self._limit, self._stop = waiting, waits_after, limit, stop
        self._held: list[Trial] = []  # waiting in their processes
        self._chosen: list[Trial] = []  # given a process
        self._asked: dict[str, float] = {}  # since when new ones have wanted one

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher: all of it follows from the records."""
        return {}

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Makes a trial wait, at first in its process."""
        if "objective" not in result or result["ended"] or not self._waits(self._record(trial), result[TIME]):
            return TrialScheduler.CONTINUE
        self._held.append(trial)
        return TrialScheduler.NOOP

    def _waits(self, record: TrialRecord, evaluation: int) -> bool:
        """Whether a trial waits that reports an evaluation: after this one, or after one that it missed."""
        known = record.evaluations
        if evaluation <= known:  # it was repeated
            return not self._waiting.ready(record)
        return any(self._waits_after(number) for number in range(known + 1, evaluation + 1))

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The next trial to get a process: its own, that of a waiting trial, or a new one."""
        trials = tune_controller.get_trials()
        if self._stop.asked:
            for trial in trials:
                if trial.status in (Trial.PENDING, Trial.PAUSED) or trial in self._held:
                    tune_controller.stop_trial(trial)
            self._held, self._chosen = [], []
            return None
        self._waiting.settle()
        for trial in trials:
            begun = trial.status in (Trial.RUNNING, Trial.PAUSED)
            if begun and self._waiting.eliminated(self._record(trial)):
                tune_controller.stop_trial(trial)
        self._held = [trial for trial in self._held if trial.status == Trial.RUNNING]
        self._chosen = [trial for trial in self._chosen if trial.status == Trial.PENDING]
        able = sorted(filter(self._can_run, trials), key=self._priority)
        trial = next((one for one in able if self._has_room(tune_controller, one, trials)), None)
        if trial is None:
            return None
        self._chosen.append(trial)
        self._release(tune_controller, able, trials)
        if trial.status == Trial.PAUSED:
            record = self._record(trial)
            trial.set_config(configured(record))
            self._waiting.study.resumed(record.number)
        return trial

    def _release(
        self, tune_controller: TuneController, able: Sequence[Trial], trials: Sequence[Trial]
    ) -> None:
        """Gives further new trials the processes of waiting ones; Ray hands out all that are free at once.

        One a step would leave most of a large cluster idle.
        """
        for trial in able:
            if not self._held:
                return
            if trial.status == Trial.PENDING and trial not in self._chosen:
                if not self._has_room(tune_controller, trial, trials):
                    return
                self._chosen.append(trial)

    def _has_room(self, tune_controller: TuneController, trial: Trial, trials: Sequence[Trial]) -> bool:
        """Whether there is a process for a trial, or room for a new one; a waiting trial gives up its own."""
        active = sum(one.status in (Trial.RUNNING, Trial.PENDING) for one in trials)
        if trial.status == Trial.PENDING and (not self._held or self._is_starting(trial, active)):
            return False
        if self._held:
            held = trial if trial in self._held else self._held[0]
            self._held.remove(held)
            tune_controller.pause_trial(held, should_checkpoint=False)
            return True
        return active < self._limit()

    def _is_starting(self, trial: Trial, active: int) -> bool:
        """Whether Ray is starting a process for a new trial; what else runs may not leave room for it."""
        since = self._asked.setdefault(trial.trial_id, time.monotonic())
        return active <= self._limit() and time.monotonic() - since < _START_S

    def _can_run(self, trial: Trial) -> bool:
        waiting = trial.status in (Trial.PENDING, Trial.PAUSED) or trial in self._held
        return waiting and trial not in self._chosen and self._waiting.ready(self._record(trial))

    def _record(self, trial: Trial) -> TrialRecord:
        return self._waiting.study.records[trial.config[NUMBER]]

    def _priority(self, trial: Trial) -> tuple[int, int]:
        return self._waiting.priority(self._record(trial))
