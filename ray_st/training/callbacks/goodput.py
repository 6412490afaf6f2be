"""Goodput: the share of a run's time spent on productive work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Goodput:
    """Sums the seconds spent on steps and evaluations.

    Work repeated after a restart is not counted twice: the sum resumes from its value at the checkpoint's
    step.

    Args:
        started: When the run began, in seconds since 1970.
        total_at: Returns the sum recorded at or before a step; records of later steps are dropped.
        book: Records the sum at a step, outside this process.
        wall: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        started: float,
        total_at: Callable[[int], float],
        book: Callable[[int, float], Any],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._started, self._total_at, self._book, self._wall = started, total_at, book, wall
        self._total = 0.0

    def begin(self, step: int) -> None:
        """Resumes from a step."""
        self._total = self._total_at(step)

    def add(self, step: int, seconds: float) -> float:
        """Adds seconds spent up to a step.

        Returns:
            The sum as a share of the run's time, including restarts.
        """
        self._total += seconds
        self._book(step, self._total)
        return min(self._total / max(self._wall() - self._started, 1e-9), 1.0)
