"""A population of trials on Ray Tune: bad ones continue as copies of good ones.

Ray Tune's own scheduler does not work with a searcher, copies between reports what Ray holds and leaves no
record. This one copies checkpoints in the search's folder, while all trials rest, and records what it did.
"""

from __future__ import annotations

from collections.abc import Callable

from ray_st.study.constraints import ranked_value
from ray_st.study.population import Population
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from ray_st.training.checkpoint.store import CheckpointError, CheckpointStore
from ray_st.util.events import notes


class Generations:
    """A population's trials between rounds: which ones wait, and which become copies once all have arrived.

    All of it follows from the study's records: if the driver is killed between two copies, the next one makes
    the rest.

    Args:
        study: The study.
        population: The rules.
        store_of: Gives the store of a trial's checkpoints.
        changed: Called with the record of each trial that became a copy.
    """

    def __init__(
        self,
        study: Study,
        population: Population,
        store_of: Callable[[int], CheckpointStore],
        changed: Callable[[TrialRecord], None],
    ) -> None:
        self.study, self._population, self._store_of, self._changed = study, population, store_of, changed
        self._maximize = population.maximize
        self._next = population.rounds.first
        self.closed = False

    def ready(self, record: TrialRecord) -> bool:
        """Whether a trial need not wait for others."""
        return record.has_finished_training or record.evaluations < self._next

    def eliminated(self, record: TrialRecord) -> bool:
        """Never: no trial of a population is stopped."""
        return False

    def priority(self, record: TrialRecord) -> tuple[int, int]:
        """The least advanced trial first: the others wait for it."""
        return record.evaluations, record.number

    def settle(self) -> None:
        """Compares the trials of each round that all of them have reached."""
        while self._complete():
            self._compare()
            self._next += self._population.rounds.interval

    def _complete(self) -> bool:
        running = [
            record for record in self.study.records if record.is_running and not record.has_finished_training
        ]
        here = all(record.evaluations >= self._next for record in running)
        return bool(running) and here and (self.closed or self.study.to_come == 0)

    def _compare(self) -> None:
        scores = {
            record.number: ranked_value(event["objectives"][0], event.get("violations"), self._maximize)
            for record in self.study.records
            if (event := record.compared_at(self._next)) is not None and not event["ended"]
        }
        for number, source in self._population.partners(scores, self._next).items():
            if self._waits_here(number) and self.study.records[source].is_running:
                self._copy(number, source)

    def _waits_here(self, number: int) -> bool:
        """Whether a trial rests after this round, and no earlier driver made it a copy."""
        record = self.study.records[number]
        copied = any(change["evaluation"] == self._next for change in record.changes)
        return record.is_running and not record.continued_past(self._next) and not copied

    def _copy(self, number: int, source: int) -> None:
        """Copies the checkpoint before it records the change: doing it twice does no harm."""
        good = self.study.records[source]
        event = good.compared_at(self._next)
        assert event is not None
        step = event["step"]
        values = self._population.explored(good.values, number, self._next)
        try:
            self._store_of(number).adopt(self._store_of(source), step)
        except CheckpointError as error:  # nothing was touched
            notes.warning(
                f"warning: trial {number} continues unchanged, not as a copy of trial {source}: {error}"
            )
            return
        self.study.copied(number, self._next, source, step, values)
        self._changed(self.study.records[number])
