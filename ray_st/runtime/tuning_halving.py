"""Successive halving on Ray Tune: trials wait at rungs, and go on when they turn out to be among the best.

After the asynchronous method of Li et al., 2020 (arXiv:1810.05934). Ray Tune's ``AsyncHyperBandScheduler`` decides when a
trial comes to a rung, and never again: where the sampler suggests better and better parameters nearly all trials are among
the best so far, and pass. Here a trial that waits can be overtaken. Unlike there, a trial that passed keeps its place when it
is overtaken, so that no more pass than there are places.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from ray_st.runtime.tuning_searcher import Record, Study
from ray_st.runtime.tuning_waiting import evaluations, over


@dataclass(frozen=True)
class Rungs:
    """After which evaluations trials wait: each rung is ``factor`` times as far as the one before.

    Args:
        first: The first of them.
        factor: One in how many goes on.
    """

    first: int
    factor: int

    def __call__(self, evaluation: int) -> bool:
        """Whether there is a rung after this evaluation."""
        return evaluation in self.up_to(evaluation)

    def up_to(self, evaluation: int) -> list[int]:
        """All rungs that are no further than an evaluation, ascending."""
        every = (self.first * self.factor**k for k in range(evaluation))
        return list(takewhile(lambda rung: rung <= evaluation, every))


class Halving:
    """Which trials wait at a rung.

    Args:
        study: The study.
        rungs: The rungs.
        maximize: Whether more is better.
    """

    def __init__(self, study: Study, rungs: Rungs, maximize: bool) -> None:
        self.study, self._rungs, self._sign = study, rungs, 1 if maximize else -1
        self.closed = False
        self._passed: dict[int, int] = {}
        """The furthest rung that each trial has passed, by number."""

    def ready(self, record: Record) -> bool:
        """Whether a trial need not wait: it is between rungs, or one of the best at its rung."""
        at = evaluations(record)
        return over(record) or not self._rungs(at) or self._passed.get(record.number, 0) >= at

    def out(self, record: Record) -> bool:
        """Whether a trial waits at a rung to which no more trials come."""
        return record.state == "RUNNING" and not self.ready(record) and self._settled(evaluations(record))

    def turn(self, record: Record) -> tuple[int, int]:
        """The most advanced trial first."""
        return -evaluations(record), record.number

    def settle(self) -> None:
        """Gives places at each rung, one for ``factor`` trials that came, to the best that wait; in the end the best passes."""
        furthest = max(map(evaluations, self.study.records), default=0)
        for rung in self._rungs.up_to(furthest):
            came = self._came(rung)
            wait = [number for number in came if not self._is_past(number, rung)]
            places = max(len(came) // self._rungs.factor - (len(came) - len(wait)), 0)
            for number in wait[:places] + came[: self._settled(rung)]:
                self._passed[number] = max(self._passed.get(number, 0), rung)

    def _is_past(self, number: int, rung: int) -> bool:
        return self._passed.get(number, 0) >= rung or evaluations(self.study.records[number]) > rung

    def _came(self, rung: int) -> list[int]:
        """The trials that came to a rung, the best first; the earlier of equals."""
        values = {
            record.number: self._sign * event["objectives"][0]
            for record in self.study.records
            for event in record.history
            if event["evaluation"] == rung and record.state != "FAIL"
        }
        return sorted(values, key=lambda number: (-values[number], number))

    def _settled(self, rung: int) -> bool:
        """Whether no more trials come to a rung."""
        if self.study.to_come and not self.closed:
            return False
        return not any(
            record.state == "RUNNING" and evaluations(record) < rung and self.ready(record)
            for record in self.study.records
        )
