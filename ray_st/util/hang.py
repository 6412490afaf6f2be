"""The report about a rank without progress; the run monitor reads it, so imports are light."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hang:
    """A rank that makes no progress.

    Args:
        rank: Its rank.
        step: The current or next step.
        phase: Its current activity: ``step``, ``data``, or ``other``.
        waited_s: Seconds without progress.
    """

    rank: int
    step: int
    phase: str
    waited_s: float

    def __str__(self) -> str:
        doing = {"step": "in", "data": "waiting for the data of"}.get(self.phase, "beside")
        return f"rank {self.rank} has made no progress for {self.waited_s:.0f} s, {doing} step {self.step}"
