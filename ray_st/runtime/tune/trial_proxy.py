"""The actor between a trial's process and its workers; it imports nothing heavy."""

from __future__ import annotations

import queue
from typing import Any


class TrialProxy:
    """Carries reports from the first worker to the trial's process, and decisions back."""

    def __init__(self) -> None:
        self._reports: queue.Queue[dict[str, Any]] = queue.Queue()
        self._decisions: queue.Queue[bool] = queue.Queue()

    def ask(self, report: dict[str, Any]) -> bool:
        """Delivers a report; waits for the decision whether the trial continues."""
        self._reports.put(report)
        return self._decisions.get()

    def next(self, wait_s: float) -> dict[str, Any] | None:
        """The next report; None if there is none within this time."""
        try:
            return self._reports.get(timeout=wait_s)
        except queue.Empty:
            return None

    def decide(self, goes_on: bool) -> None:
        """Decides whether the trial continues after its last report."""
        self._decisions.put(goes_on)
