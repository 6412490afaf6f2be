"""Effective training time: how much of a run's time was spent on work that counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Goodput:
    """Adds up the seconds that were spent on steps and evaluations.

    What a restart does again does not count twice: the sum goes on from what it was at the checkpoint's step.

    Args:
        started: When the run began, in seconds since 1970.
        total_at: Gives the sum at a step, or before, as it was booked; what was booked for later steps is
            dropped.
        book: Notes the sum at a step, outside of this process.
        wall: Tells the time since 1970.
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
        """Goes on from a step."""
        self._total = self._total_at(step)

    def add(self, step: int, seconds: float) -> float:
        """Adds seconds that led to a step.

        Returns:
            The share of the run's time, restarts included, that is in the sum.
        """
        self._total += seconds
        self._book(step, self._total)
        return min(self._total / max(self._wall() - self._started, 1e-9), 1.0)
