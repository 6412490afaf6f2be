"""A population of trials on Ray Tune: trials wait for each other, and bad ones go on as copies of good ones.

Ray Tune's own scheduler takes no searcher beside it, copies between reports what Ray holds and leaves no record; this one
copies checkpoints in the search's folder, while all trials rest, and writes down what it did. A trial that waits keeps its
process until another trial wants it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ray_st.runtime.tuning_schedulers import TIME
from ray_st.runtime.tuning_searcher import Record, Study, StudySearcher, Watcher, configured
from ray_st.runtime.tuning_trial import NUMBER
from ray_st.training.checkpoint import CheckpointError, CheckpointStore
from ray_st.training.progress import write_line

_START_S = 60.0
"""How long a new trial waits for a process of its own before it gets that of one that waits for others."""


class Rounds(Protocol):
    """After which evaluations a population is compared."""

    @property
    def first(self) -> int:
        """The first of them."""

    @property
    def interval(self) -> int:
        """Evaluations from one to the next."""

    def __call__(self, evaluation: int) -> bool:
        """Whether it is after this one."""


class Population(Protocol):
    """The rules of a population."""

    @property
    def rounds(self) -> Rounds:
        """When trials are compared."""

    def partners(self, scores: Mapping[int, float], evaluation: int) -> dict[int, int]:
        """Which trials go on as copies, and of which."""

    def explored(self, values: Mapping[str, Any], number: int, evaluation: int) -> dict[str, Any]:
        """The values with which a trial goes on as a copy."""


class Generations:
    """A population's trials between rounds: who waits, and what becomes of them when all have come.

    All that is decided follows from the study's records, so that a search whose driver was killed between two copies makes
    the rest of them.

    Args:
        study: The study.
        population: The rules.
        store_of: Gives the store of a trial's checkpoints.
        watcher: Is told of copies.
    """

    def __init__(
        self,
        study: Study,
        population: Population,
        store_of: Callable[[int], CheckpointStore],
        watcher: Watcher,
    ) -> None:
        self.study, self._population, self._store_of, self._watcher = study, population, store_of, watcher
        self._next = population.rounds.first
        self.closed = False

    def ready(self, record: Record) -> bool:
        """Whether a trial need not wait for others."""
        return _over(record) or _evaluations(record) < self._next

    def settle(self) -> None:
        """Compares the trials of each round that all have come to."""
        while self._complete():
            self._compare()
            self._next += self._population.rounds.interval

    def _complete(self) -> bool:
        running = [record for record in self.study.records if record.state == "RUNNING" and not _over(record)]
        here = all(_evaluations(record) >= self._next for record in running)
        return bool(running) and here and (self.closed or self.study.to_come == 0)

    def _compare(self) -> None:
        scores = {
            record.number: event["objectives"][0]
            for record in self.study.records
            for event in record.history
            if event["evaluation"] == self._next and not event["ended"]
        }
        for number, source in self._population.partners(scores, self._next).items():
            if self._waits_here(number) and self.study.records[source].state == "RUNNING":
                self._copy(number, source)

    def _waits_here(self, number: int) -> bool:
        """Whether a trial rests after this round; one that is past it, or has its copy, was seen to before."""
        record = self.study.records[number]
        copied = any(change["evaluation"] == self._next for change in record.changes)
        return record.state == "RUNNING" and _evaluations(record) == self._next and not copied

    def _copy(self, number: int, source: int) -> None:
        """First the checkpoint, then the record: what is done twice does no harm."""
        good = self.study.records[source]
        step = next(event["step"] for event in good.history if event["evaluation"] == self._next)
        values = self._population.explored(good.values, number, self._next)
        try:
            self._store_of(number).adopt(self._store_of(source), step)
        except CheckpointError as error:  # nothing was touched
            write_line(f"warning: trial {number} goes on as it is, not as a copy of trial {source}: {error}")
            return
        self.study.copied(number, self._next, source, step, values)
        self._watcher.changed(self.study.records[number])


def _evaluations(record: Record) -> int:
    return int(record.history[-1]["evaluation"]) if record.history else 0


def _over(record: Record) -> bool:
    return bool(record.history and record.history[-1]["ended"])


class PopulationSearcher(StudySearcher):
    """Hands out the trials of a population; those that wait for others take no room.

    Args:
        generations: The population.
        limit: Gives the most trials at a time, as the cluster is now.
        watcher: Is told of evaluations and ends after they are noted.
    """

    def __init__(self, generations: Generations, limit: Callable[[], int], watcher: Watcher) -> None:
        super().__init__(generations.study, limit, watcher)
        self._generations = generations

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; FINISHED only when all have ended: Ray keeps processes for reuse until then."""
        self._generations.closed = self.spoilt is not None
        self._generations.settle()
        records = self._study.records
        asked = None
        if self.spoilt is None:
            if sum(self._generations.ready(records[n]) for n in self._numbers.values()) >= self._limit():
                return None
            asked = self._study.ask(self._generations.ready)
        if asked is None:
            return None if self._numbers else Searcher.FINISHED
        self._numbers[trial_id] = asked.number
        return configured(asked)


class PopulationScheduler(FIFOScheduler):
    """Has trials wait after a round, and go on when it is settled, the least advanced first.

    Args:
        generations: The population.
        rounds: When trials are compared.
        limit: Gives the most trials at a time, as the cluster is now.
    """

    def __init__(self, generations: Generations, rounds: Rounds, limit: Callable[[], int]) -> None:
        super().__init__()
        self._generations, self._rounds, self._limit = generations, rounds, limit
        self._held: list[Trial] = []  # they wait in their processes
        self._chosen: list[Trial] = []  # they have been given a process
        self._asked: dict[str, float] = {}  # since when new ones want one

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Has a trial wait in its process if trials are compared now."""
        if "objective" not in result or result["ended"] or not self._rounds(result[TIME]):
            return TrialScheduler.CONTINUE
        self._held.append(trial)
        return TrialScheduler.NOOP

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next trial to give a process to: its own, that of a trial that waits, or a new one."""
        self._generations.settle()
        trials = tune_controller.get_trials()
        self._held = [trial for trial in self._held if trial.status == Trial.RUNNING]
        self._chosen = [trial for trial in self._chosen if trial.status == Trial.PENDING]
        able = sorted(filter(self._can_run, trials), key=self._progress)
        trial = next((one for one in able if self._has_room(tune_controller, one, trials)), None)
        if trial is None:
            return None
        self._chosen.append(trial)
        if trial.status == Trial.PAUSED:
            record = self._record(trial)
            trial.set_config(configured(record))
            self._generations.study.went_on(record.number)
        return trial

    def _has_room(self, tune_controller: Any, trial: Trial, trials: list[Trial]) -> bool:
        """Whether there is a process for a trial, or room for a new one; one that waits gives up its own."""
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
        """Whether Ray is starting a process for a new trial; what else runs may leave no room for it for long."""
        since = self._asked.setdefault(trial.trial_id, time.monotonic())
        return active <= self._limit() and time.monotonic() - since < _START_S

    def _can_run(self, trial: Trial) -> bool:
        waiting = trial.status in (Trial.PENDING, Trial.PAUSED) or trial in self._held
        return waiting and trial not in self._chosen and self._generations.ready(self._record(trial))

    def _record(self, trial: Trial) -> Record:
        return self._generations.study.records[trial.config[NUMBER]]

    def _progress(self, trial: Trial) -> tuple[int, int]:
        record = self._record(trial)
        return _evaluations(record), record.number
