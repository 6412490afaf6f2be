"""Successive halving on Ray Tune: trials wait at rungs until it is certain who is among the best, and those go on.

The method is that of Jamieson and Talwalkar, 2016 (arXiv:1502.07943). Ray Tune's ``AsyncHyperBandScheduler`` decides when a
trial comes to a rung: where the sampler suggests better and better parameters nearly all trials are among the best so far,
and pass; and places that early trials took are lost to better ones. Here those pass that are among the best of all, in
whatever order they come; as soon as no trial that is still to come can change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from ray_st.runtime.tune.study_searcher import Record, Study, evaluations
from ray_st.runtime.tune.waiting import compared_at, over, went_past


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
        self._out: set[int] = set()

    def ready(self, record: Record) -> bool:
        """Whether a trial need not wait: it has passed all rungs that it came to, certain to be one of the best there."""
        last = max(self._rungs.up_to(evaluations(record)), default=0)
        return over(record) or self._passed.get(record.number, 0) >= last

    def out(self, record: Record) -> bool:
        """Whether a trial waits at a rung where enough trials are better."""
        return record.state == "RUNNING" and record.number in self._out

    def turn(self, record: Record) -> tuple[int, int]:
        """The most advanced trial first."""
        return -evaluations(record), record.number

    def settle(self) -> None:
        """Gives places at each rung, one for ``factor`` trials and one at least, as far as it is certain who has them.

        All of it follows from the records. What is certain stays so: a trial that comes moves others by a place at most, and
        there is one less to come.
        """
        self._passed, self._out = {}, set()
        records = self.study.records
        on_the_way = {record.number for record in records}
        unknown = 0 if self.closed else self.study.to_come  # how many more come, nobody knows which
        for rung in self._rungs.up_to(max(map(evaluations, records), default=0)):
            came, lost = self._came(rung)
            coming = [
                n for n in on_the_way if records[n].state == "RUNNING" and evaluations(records[n]) < rung
            ]
            to_come = len(coming) + unknown
            places = max((len(came) + lost + to_come) // self._rungs.factor, 1)
            passed = [
                n for rank, n in enumerate(came, 1) if rank + to_come <= places or self._is_past(n, rung)
            ]
            waiting = [n for n in came[:places] if n not in passed and records[n].state == "RUNNING"]
            self._passed.update(dict.fromkeys(passed, rung))
            self._out.update(set(came[places:]) - set(passed))
            on_the_way = set(passed)
            unknown = max(min(places - len(passed), len(waiting) + to_come), 0)

    def _is_past(self, number: int, rung: int) -> bool:
        return went_past(self.study.records[number], rung)

    def _came(self, rung: int) -> tuple[list[int], int]:
        """The trials that came to a rung, the best first, the earlier of equals; and how many more failed there."""
        values = {
            record.number: self._sign * event["objectives"][0]
            for record in self.study.records
            if (event := compared_at(record, rung)) is not None
        }
        ranked = sorted(values, key=lambda number: (-values[number], number))
        left = [n for n in ranked if self.study.records[n].state != "FAIL" or self._is_past(n, rung)]
        return left, len(ranked) - len(left)
