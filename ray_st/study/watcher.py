"""What follows an event of a search: the user sees it, checkpoints are deleted, metrics are published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ray_st.study.search_progress import SearchProgress
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord


class Steps(Protocol):
    """A trial's store of checkpoints, as far as it is needed here; the class belongs to a sibling room."""

    def steps(self) -> list[int]:
        """The steps of its checkpoints."""

    def delete(self, step: int) -> None:
        """Deletes one."""


class Copy(Protocol):
    """The copy of a search's journal, such as :class:`ray_st.study.mirror.Mirror`."""

    copied: int

    def size(self) -> int:
        """How many bytes there are to copy."""


class Retention:
    """Keeps the checkpoints of running trials and of the best finished ones, and deletes the others.

    Where the journal is copied, a trial's checkpoints stay until the copy says that it has ended: continued
    from the copy, the search would run the trial again.

    Args:
        study: The study.
        store_of: Gives the store of a trial's checkpoints.
        keep: For how many finished trials to keep them.
        copy: The copy of the journal; None if there is none.
    """

    def __init__(
        self, study: Study, store_of: Callable[[int], Steps], keep: int, copy: Copy | None = None
    ) -> None:
        self._study, self._store_of, self._keep, self._copy = study, store_of, keep, copy
        self._bare: set[int] = set()
        self._noted: dict[int, int] = {}  # how long the journal was when a trial had ended

    def tidy(self) -> None:
        """Deletes checkpoints that are no longer needed."""
        kept = {record.number for record in self._study.best(self._keep)}
        ended = {record.number for record in self._study.records if not record.is_running}
        for number in sorted(ended - self._bare):
            if self._has_copied_end(number) and number not in kept:
                store = self._store_of(number)
                for step in store.steps():
                    store.delete(step)
                self._bare.add(number)

    def _has_copied_end(self, number: int) -> bool:
        if self._copy is None:
            return True
        return self._noted.setdefault(number, self._copy.size()) <= self._copy.copied


@dataclass(frozen=True)
class Watcher:
    """Passes on what happens in a search, after it is recorded.

    Args:
        study: The study.
        progress: Shows it to the user.
        retention: Deletes checkpoints.
        publish: Takes the number of trials by state, and the best value so far or None.
    """

    study: Study
    progress: SearchProgress
    retention: Retention
    publish: Callable[[Mapping[str, int], float | None], None]

    def reported(self) -> None:
        """Called after an evaluation."""
        self.progress.reported()
        self._publish()

    def changed(self, record: TrialRecord) -> None:
        """Called when a trial became a copy of another."""
        self.progress.changed(record)

    def ended(self, record: TrialRecord) -> None:
        """Called when a trial has ended."""
        self.progress.ended(record)
        self.retention.tidy()
        self._publish()

    def _publish(self) -> None:
        best = self.study.best()
        states = Counter(record.state for record in self.study.records)
        self.publish(states, best[0].objectives[0] if best else None)
