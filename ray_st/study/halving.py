"""Successive halving: which trials wait at a rung, which continue, and which are stopped.

The method is that of Jamieson and Talwalkar, 2016 (arXiv:1502.07943). Ray Tune's ``AsyncHyperBandScheduler``
decides as soon as a trial reaches a rung: where the sampler suggests better and better parameters, nearly all
trials are among the best so far and pass, and places taken by early trials are lost to better ones. Here the
trials that pass are the best of all, whatever order they arrive in, and they pass as soon as no trial still
to come can change that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from ray_st.study.constraints import ranked_value
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord


@dataclass(frozen=True)
class Rungs:
    """The evaluations after which trials wait: each rung is ``factor`` times as far as the one before.

    Args:
        first: The first of them.
        factor: One in this many trials continues.
    """

    first: int
    factor: int

    def __call__(self, evaluation: int) -> bool:
        """Whether there is a rung after this evaluation."""
        return evaluation in self.up_to(evaluation)

    def up_to(self, evaluation: int) -> list[int]:
        """All rungs up to an evaluation, ascending."""
        every = (self.first * self.factor**k for k in range(evaluation))
        return list(takewhile(lambda rung: rung <= evaluation, every))


class Halving:
    """Decides which trials wait at a rung.

    Args:
        study: The study.
        rungs: The rungs.
        maximize: Whether more is better.
    """

    def __init__(self, study: Study, rungs: Rungs, maximize: bool) -> None:
        self.study, self._rungs, self._sign = study, rungs, 1 if maximize else -1
        self.closed = False
        self._passed: dict[int, int] = {}
        """The furthest rung each trial has passed, by its number."""
        self._eliminated: set[int] = set()
        self._settled: object = None
        """From what they follow."""

    def ready(self, record: TrialRecord) -> bool:
        """Whether a trial may continue: it is certain to be one of the best at every rung it has reached."""
        last = max(self._rungs.up_to(record.evaluations), default=0)
        return record.has_finished_training or self._passed.get(record.number, 0) >= last

    def eliminated(self, record: TrialRecord) -> bool:
        """Whether a trial waits at a rung where enough others are better."""
        return record.is_running and record.number in self._eliminated

    def priority(self, record: TrialRecord) -> tuple[int, int]:
        """The most advanced trial first."""
        return -record.evaluations, record.number

    def settle(self) -> None:
        """Gives out the places at each rung, one per ``factor`` trials and at least one, if certain.

        All of it follows from the records. What is certain stays certain: each arriving trial moves the
        others by at most one place, and reduces by one the number that are still to come.
        """
        records = self.study.records
        # Asked many times between two events: with hundreds of trials, ranking them each time is dear.
        known = [(record.state, len(record.history)) for record in records]
        if self._settled == (found := (known, self.closed, self.study.to_come)):
            return
        self._settled = found
        self._passed, self._eliminated = {}, set()
        on_the_way = {record.number for record in records}
        unknown = 0 if self.closed else self.study.to_come  # how many more will come, not known which
        for rung in self._rungs.up_to(max((record.evaluations for record in records), default=0)):
            came, lost = self._arrived(rung)
            coming = [n for n in on_the_way if records[n].is_running and records[n].evaluations < rung]
            to_come = len(coming) + unknown
            places = max((len(came) + lost + to_come) // self._rungs.factor, 1)
            passed = [
                n
                for rank, n in enumerate(came, 1)
                if rank + to_come <= places or records[n].continued_past(rung)
            ]
            waiting = [n for n in came[:places] if n not in passed and records[n].is_running]
            self._passed.update(dict.fromkeys(passed, rung))
            self._eliminated.update(set(came[places:]) - set(passed))
            on_the_way = set(passed)
            unknown = max(min(places - len(passed), len(waiting) + to_come), 0)

    def _arrived(self, rung: int) -> tuple[list[int], int]:
        """The trials that reached a rung, best first, then by number; and how many ended there otherwise.

        A trial that violates constraints ranks below all that satisfy them.
        """
        records = self.study.records
        values = {
            record.number: self._sign
            * ranked_value(event["objectives"][0], event.get("violations"), self._sign > 0)
            for record in records
            if (event := record.compared_at(rung)) is not None
        }
        ranked = sorted(values, key=lambda number: (-values[number], number))
        gone = {r.number for r in records if r.state == "FAIL" or r.was_refused}
        left = [n for n in ranked if n not in gone or records[n].continued_past(rung)]
        return left, len(ranked) - len(left)
