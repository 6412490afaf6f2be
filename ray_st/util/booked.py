"""Totals by step, from which a restarted run continues."""

from __future__ import annotations


class Booked:
    """Recorded totals, by step.

    Attributes:
        totals: Seconds by step.
    """

    def __init__(self) -> None:
        self.totals: dict[int, float] = {}

    def book(self, step: int, total: float) -> None:
        """Records the total at a step."""
        self.totals[step] = total

    def total_at(self, step: int) -> float:
        """The total at the last recorded step up to ``step``; discards later ones."""
        self.totals = {then: total for then, total in self.totals.items() if then <= step}
        return self.totals[max(self.totals)] if self.totals else 0.0
