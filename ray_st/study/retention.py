"""Which trials' checkpoints are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_st.study.study import Study


class Retention:
    """Keeps the checkpoints of running trials and of the best finished ones, and deletes the others.

    Args:
        study: The study.
        store_of: Gives the store of a trial's checkpoints.
        keep: Of how many finished trials they are kept.
    """

    def __init__(self, study: Study, store_of: Callable[[int], Any], keep: int) -> None:
        self._study, self._store_of, self._keep = study, store_of, keep
        self._bare: set[int] = set()

    def tidy(self) -> None:
        """Deletes what is no longer wanted."""
        kept = {record.number for record in self._study.best(self._keep)}
        ended = {record.number for record in self._study.records if record.state != "RUNNING"}
        for number in sorted(ended - kept - self._bare):
            store = self._store_of(number)
            for step in store.steps():
                store.delete(step)
            self._bare.add(number)
