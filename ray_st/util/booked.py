"""Sums by step, from which a restart goes on."""

from __future__ import annotations


class Booked:
    """The sums that were noted, by step.

    Attributes:
        totals: Seconds by step.
    """

    def __init__(self) -> None:
        self.totals: dict[int, float] = {}

    def book(self, step: int, total: float) -> None:
        """Notes the sum at a step."""
        self.totals[step] = total

    def total_at(self, step: int) -> float:
        """The sum at the last step up to ``step``; drops later ones."""
        self.totals = {then: total for then, total in self.totals.items() if then <= step}
        return self.totals[max(self.totals)] if self.totals else 0.0
