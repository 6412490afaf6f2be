"""What trainings with fresh seeds say about the finalists of a search, and which of them wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ray_st.study.constraints import describe_violations
from ray_st.study.finalists import Repetition, same_but_seed
from ray_st.study.next_seed import expected_range
from ray_st.study.trial_record import TrialRecord

_SAME_TIME, _SAME_TIME_S = 1.1, 1.0
"""Trainings take about as long if one takes at most this many times as long as the other, and a second."""


@dataclass(frozen=True)
class Finalist:
    """A trial of a search that was trained again with fresh seeds.

    Args:
        number: Its number in the search.
        searched: Its value in the search.
        values: The value with each fresh seed whose training was completed.
        failures: Why a training failed, or which constraint it violates, by seed.
        runs: The number of each completed training among all that were made again, by seed.
        rows: Training rows of one of them, on average.
        seconds: Seconds that one of them ran, on average.
        maximize: Whether more is better.
    """

    number: int
    searched: float
    values: Mapping[int, float]
    failures: Mapping[int, str]
    runs: Mapping[int, int]
    rows: float
    seconds: float
    maximize: bool

    @property
    def mean(self) -> float:
        """The mean over the seeds; NaN if there is none."""
        return fmean(self.values.values()) if self.values else math.nan

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds (divisor k - 1); None for fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def low(self) -> float:
        """The smallest value; NaN if there is none."""
        return min(self.values.values(), default=math.nan)

    @property
    def high(self) -> float:
        """The largest value; NaN if there is none."""
        return max(self.values.values(), default=math.nan)

    @property
    def optimism(self) -> float:
        """How much better its value in the search was than the mean; it was chosen for that value."""
        return self._sign * (self.searched - self.mean)

    @property
    def expected(self) -> tuple[float, float] | None:
        """Where the value of one more seed is expected: :func:`ray_st.study.next_seed.expected_range`."""
        return expected_range(list(self.values.values()))

    @property
    def typical_runs(self) -> list[int]:
        """The numbers of the completed trainings, those first whose value is closest to the mean.

        The training with the best value would be the luckiest one again: its value says more about its seed
        than about the hyperparameters, and its weights may fit the evaluation data by chance.
        """
        distance = {run: abs(self.values[seed] - self.mean) for seed, run in self.runs.items()}
        return sorted(distance, key=lambda run: (distance[run], run))

    @property
    def score(self) -> float:
        """The mean, where more is better."""
        return self._sign * self.mean

    @property
    def _sign(self) -> int:
        return 1 if self.maximize else -1

    def is_no_better_than(self, other: Finalist) -> bool:
        """Whether the difference to a finalist with a smaller mean is within its standard error.

        The one-standard-error rule (Breiman, Friedman, Olshen and Stone, Classification and Regression
        Trees, 1984, section 3.4.3), with the standard error of the paired differences: all finalists are
        trained with the same seeds, and what a seed does to all of them cancels out.

        Args:
            other: The finalist with the smaller mean.
        """
        common = [seed for seed in self.values if seed in other.values]
        gaps = [self._sign * (self.values[seed] - other.values[seed]) for seed in common]
        if len(gaps) < 2:
            return all(gap <= 0 for gap in gaps)
        return fmean(gaps) <= stdev(gaps) / math.sqrt(len(gaps))


@dataclass(frozen=True)
class Confirmed:
    """The finalists of a search, trained again with fresh seeds.

    Args:
        finalists: Best mean first; those that were not completed with all seeds come last, whatever their
            mean, and those that were never completed are at the end.
        winner: The cheapest finalist that the best mean is no better than; None if none was completed.
        seeds: The seeds that every finalist was to be trained with.
        runs: How many trainings were made again.
        left: How many have yet to be begun or to end: until then nothing is final.
        rows: Their training rows, all together.
        seconds: The seconds that they ran, all together.
    """

    finalists: tuple[Finalist, ...]
    winner: Finalist | None
    seeds: tuple[int, ...]
    runs: int
    left: int
    rows: int
    seconds: float

    @property
    def failures(self) -> list[str]:
        """The reasons of trainings that failed, each once."""
        return sorted({reason for one in self.finalists for reason in one.failures.values() if reason})


def judge(
    plan: Sequence[Repetition], records: Sequence[TrialRecord], seeds: Sequence[int], maximize: bool
) -> Confirmed:
    """Ranks the finalists by their means.

    Args:
        plan: What was to be trained again.
        records: What became of it, by number; there may be fewer.
        seeds: The seeds that every finalist is trained with.
        maximize: Whether more is better.
    """
    groups: dict[str, tuple[TrialRecord, dict[int, TrialRecord]]] = {}
    for one in plan:
        groups.setdefault(same_but_seed(one.finalist.values), (one.finalist, {}))
    for one, record in zip(plan, records, strict=False):
        groups[same_but_seed(one.finalist.values)][1][one.seed] = record
    finalists = [_finalist(trial, runs, maximize) for trial, runs in groups.values() if runs]

    def completed(one: Finalist) -> int:
        return sum(seed in one.values for seed in seeds) if one.values else -1

    ranked = sorted(finalists, key=lambda one: (-completed(one), -one.score if one.values else 0, one.number))
    rivals = [one for one in ranked if one.values and completed(one) == completed(ranked[0])]
    return Confirmed(
        tuple(ranked),
        _cheapest(rivals) if rivals else None,
        tuple(seeds),
        len(records),
        len(plan) - sum(not record.is_running for record in records),
        sum(record.samples for record in records),
        sum(record.seconds for record in records),
    )


def _finalist(trial: TrialRecord, runs: Mapping[int, TrialRecord], maximize: bool) -> Finalist:
    complete = {seed: run for seed, run in runs.items() if run.state == "COMPLETE" and run.is_feasible}
    failed = {seed: run for seed, run in runs.items() if not (run.is_running or seed in complete)}
    return Finalist(
        trial.number,
        trial.objectives[0],
        {seed: record.objectives[0] for seed, record in complete.items()},
        {seed: run.reason or describe_violations(run) for seed, run in failed.items()},
        {seed: record.number for seed, record in complete.items()},
        fmean(record.samples for record in complete.values()) if complete else 0.0,
        fmean(record.seconds for record in complete.values()) if complete else 0.0,
        maximize,
    )


def _cheapest(rivals: Sequence[Finalist]) -> Finalist:
    """The cheapest of those that the best one is no better than, itself among them.

    Seconds vary from run to run: among those that take about as long, the best mean decides.

    Args:
        rivals: Best mean first.
    """
    best = rivals[0]
    equals = [best, *(one for one in rivals[1:] if best.is_no_better_than(one))]
    least = min(one.seconds for one in equals)
    return next(one for one in equals if one.seconds <= _SAME_TIME * least + _SAME_TIME_S)
