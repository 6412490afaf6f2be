"""A population of trials on Ray Tune: bad ones go on as copies of good ones.

Ray Tune's own scheduler takes no searcher beside it, copies between reports what Ray holds and leaves no record; this one
copies checkpoints in the search's folder, while all trials rest, and writes down what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray_st.runtime.tune.study_searcher import Record, Study, Watcher, evaluations
from ray_st.runtime.tune.waiting import compared_at, over, went_past
from ray_st.training.checkpoint.store import CheckpointError, CheckpointStore
from ray_st.util.events import notes


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
            if (event := compared_at(record, self._next)) is not None and not event["ended"]
        }
        for number, source in self._population.partners(scores, self._next).items():
            if self._waits_here(number) and self.study.records[source].state == "RUNNING":
                self._copy(number, source)

    def _waits_here(self, number: int) -> bool:
        """Whether a trial rests after this round; one that is past it, or has its copy, was seen to before."""
        record = self.study.records[number]
        copied = any(change["evaluation"] == self._next for change in record.changes)
        return record.state == "RUNNING" and not went_past(record, self._next) and not copied

    def _copy(self, number: int, source: int) -> None:
        """First the checkpoint, then the record: what is done twice does no harm."""
        good = self.study.records[source]
        event = compared_at(good, self._next)
        assert event is not None
        step = event["step"]
        values = self._population.explored(good.values, number, self._next)
        try:
            self._store_of(number).adopt(self._store_of(source), step)
        except CheckpointError as error:  # nothing was touched
            notes.warning(
                f"warning: trial {number} goes on as it is, not as a copy of trial {source}: {error}"
            )
            return
        self.study.copied(number, self._next, source, step, values)
        self._watcher.changed(self.study.records[number])
