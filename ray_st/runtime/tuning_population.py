"""A population of trials on Ray Tune: bad ones go on as copies of good ones.

Ray Tune's own scheduler takes no searcher beside it, copies between reports what Ray holds and leaves no record; this one
copies checkpoints in the search's folder, while all trials rest, and writes down what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pbt import PopulationBasedTrainingReplay
from ray.tune.search.sample import Domain

from ray_st.runtime.tuning_schedulers import OBJECTIVE, TIME
from ray_st.runtime.tuning_searcher import Record, Study, Watcher
from ray_st.runtime.tuning_waiting import evaluations, over
from ray_st.training.checkpoint import CheckpointError, CheckpointStore
from ray_st.training.progress import write_line

_ITERATION = "training_iteration"


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


@dataclass(frozen=True)
class Asked:
    """What a scheduler of Ray Tune's asks for.

    Args:
        first: The first evaluation after which trials are compared.
        interval: Evaluations from one comparison to the next.
        fraction: How many trials are copied, and how many go on as copies.
        resampled: How often a value is drawn anew.
        factors: What numbers are else multiplied with.
        mutations: By parameter, values in order or a function that draws one from a seed.
        explore: Has the last word on values; None for none.
    """

    first: int
    interval: int
    fraction: float
    resampled: float
    factors: tuple[float, ...]
    mutations: dict[str, Any]
    explore: Callable[[dict[str, Any]], dict[str, Any]] | None


def asked_by(scheduler: Any, mode: str) -> Asked | None:
    """What a scheduler of Ray Tune's for population based training asks for; None if it is another scheduler.

    Args:
        scheduler: The scheduler.
        mode: The search's direction, ``"min"`` or ``"max"``.

    Raises:
        ValueError: If it asks for something that a search does not do.
    """
    if isinstance(scheduler, PopulationBasedTrainingReplay):
        raise ValueError(
            "scheduler: a search does not replay one of Ray Tune's; give PopulationBasedTraining."
        )
    if not isinstance(scheduler, PopulationBasedTraining):
        return None
    if type(scheduler) is not PopulationBasedTraining:
        raise ValueError(
            f'scheduler: {type(scheduler).__name__} has rules of its own; use PopulationBasedTraining itself, or "pbt".'
        )
    _check(scheduler, mode)
    interval = int(scheduler._perturbation_interval)
    return Asked(
        first=max(interval, int(scheduler._burn_in_period)),
        interval=interval,
        fraction=scheduler._quantile_fraction,
        resampled=scheduler._resample_probability,
        factors=tuple(scheduler._perturbation_factors),
        mutations={name: _source(name, given) for name, given in scheduler._hyperparam_mutations.items()},
        explore=scheduler._custom_explore_fn,
    )


def _check(scheduler: PopulationBasedTraining, mode: str) -> None:
    time, interval, burn_in = (
        scheduler._time_attr,
        scheduler._perturbation_interval,
        scheduler._burn_in_period,
    )
    if time not in (TIME, _ITERATION):
        raise ValueError(
            f"PopulationBasedTraining: time_attr={time!r}; trials are compared after the same share of their steps: use "
            f"time_attr={TIME!r} (or {_ITERATION!r}) and count perturbation_interval in evaluations."
        )
    if int(interval) != interval or int(burn_in) != burn_in:
        raise ValueError(
            f"PopulationBasedTraining: perturbation_interval={interval} and burn_in_period={burn_in} count evaluations; "
            "they must be whole numbers."
        )
    if scheduler._metric not in (None, OBJECTIVE) or scheduler._mode not in (None, mode):
        raise ValueError(
            f"PopulationBasedTraining: metric={scheduler._metric!r}, mode={scheduler._mode!r}; trials are compared by the "
            "search's objective and direction: leave both out."
        )


def _source(name: str, given: Any) -> Any:
    if isinstance(given, Mapping):
        raise ValueError(f"hyperparam_mutations: {name!r} is a dict; parameters of a search have no parts.")
    if isinstance(given, Domain):
        return lambda seed: given.sample(random_state=seed)
    return (lambda seed: given()) if callable(given) else list(given)


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
        return over(record) or evaluations(record) < self._next

    def out(self, record: Record) -> bool:
        """Never: a trial of a population goes on."""
        return False

    def turn(self, record: Record) -> tuple[int, int]:
        """The least advanced trial first: the others wait for it."""
        return evaluations(record), record.number

    def settle(self) -> None:
        """Compares the trials of each round that all have come to."""
        while self._complete():
            self._compare()
            self._next += self._population.rounds.interval

    def _complete(self) -> bool:
        running = [record for record in self.study.records if record.state == "RUNNING" and not over(record)]
        here = all(evaluations(record) >= self._next for record in running)
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
        return record.state == "RUNNING" and evaluations(record) == self._next and not copied

    def _copy(self, number: int, source: int) -> None:
        """First the checkpoint, then the record: what is done twice does no harm."""
        good = self.study.records[source]
        step = next(event["step"] for event in good.history if event["evaluation"] == self._next)
        values = self._population.explored(good.values, number, self._next)
        try:
            self._store_of(number).adopt(self._store_of(source), step)
        except (CheckpointError, OSError) as error:
            write_line(f"warning: trial {number} goes on as it is, not as a copy of trial {source}: {error}")
            return
        self.study.copied(number, self._next, source, step, values)
        self._watcher.changed(self.study.records[number])
