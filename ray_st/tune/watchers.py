"""Who is told of what happens in a search."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ray_st.study.journal import TrialRecord
from ray_st.study.retention import Retention
from ray_st.study.search_progress import SearchProgress
from ray_st.study.study import Study


@dataclass(frozen=True)
class Watcher:
    """Hands on what happens.

    Args:
        study: The study.
        name: The search's name.
        progress: What the user sees.
        retention: What is deleted.
    """

    study: Study
    name: str
    progress: SearchProgress
    retention: Retention

    def reported(self) -> None:
        """An evaluation was noted."""
        self.progress.reported()
        self._show()

    def changed(self, record: TrialRecord) -> None:
        """It was noted that a trial goes on as a copy of another."""
        self.progress.changed(record)

    def ended(self, record: TrialRecord) -> None:
        """A trial's end was noted."""
        self.progress.ended(record)
        self.retention.tidy()
        self._show()

    def _show(self) -> None:
        from ray_st.runtime.supervision.ray_metrics import show_search

        best = self.study.best()
        states = Counter(record.state for record in self.study.records)
        show_search(self.name, states, best[0].objectives[0] if best else None)
