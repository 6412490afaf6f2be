"""What a search optimises: one number, or several, computed from the metrics of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from transformers.trainer_utils import default_compute_objective

from ray_st.evaluation.metric_names import MetricNames
from ray_st.study.constraints import MEASURED, Constraint, missing_metric
from ray_st.util.names import closest, did_you_mean

DIRECTIONS = ("minimize", "maximize")
SCOPES = ("last", "all", "avg", "last-5-avg", "last-10-avg")

Compute = Callable[[dict[str, float]], Any] | str | Sequence[str] | None
"""A function of the metrics by name, the name of a metric, a list of names, or None for transformers'
default: the evaluation loss if there is nothing else, otherwise the sum of all other metrics except those of
speed."""


class ObjectiveError(ValueError):
    """The objective cannot be computed from what evaluations report; every other trial would fail alike."""


def as_directions(direction: str | Sequence[str]) -> tuple[str, ...]:
    """The direction of each objective.

    Args:
        direction: ``"minimize"`` or ``"maximize"``, or a list of them.

    Raises:
        ValueError: If there is none, or one is something else.
    """
    given = (direction,) if isinstance(direction, str) else tuple(direction)
    odd = [word for word in given if word not in DIRECTIONS]
    if odd or not given:
        hint = f"; {did_you_mean(str(odd[0]), DIRECTIONS)}" if odd else ""
        raise ValueError(
            f'direction must be "minimize" or "maximize", or a list of these; got {direction!r}{hint}'
        )
    return given


def as_scope(ray_scope: str | None, directions: Sequence[str]) -> str:
    """Which evaluations decide when ended trials are compared; the names are Ray Tune's.

    Args:
        ray_scope: The training argument: ``"last"``, ``"all"`` (the best one), ``"avg"`` (the mean),
            ``"last-5-avg"``, ``"last-10-avg"``, or None for ``"last"``.
        directions: The direction of each objective.

    Raises:
        ValueError: If it is something else, or there are several objectives, which may peak at different
            times.
    """
    scope = ray_scope or "last"
    if scope not in SCOPES:
        raise ValueError(f"ray_scope: expected one of {list(SCOPES)}, found {scope!r}.")
    if scope != "last" and len(directions) > 1:
        raise ValueError(f'ray_scope={scope!r} is for one objective; with several, only "last" is possible.')
    return scope


@dataclass(frozen=True)
class Objective:
    """Computes the values of a trial's objectives from the metrics of an evaluation.

    Args:
        compute: As for :data:`Compute`.
        directions: One for each objective.
        scope: Which evaluations decide when trials are compared, as for :func:`as_scope`.
        constraints: What a trial's last evaluation must satisfy for the trial to count, whatever the scope.
    """

    compute: Compute
    directions: tuple[str, ...]
    scope: str = "last"
    constraints: tuple[Constraint, ...] = ()

    @property
    def maximize(self) -> bool:
        """Whether more is better, of the first objective."""
        return self.directions[0] == "maximize"

    @cached_property
    def measured(self) -> frozenset[str]:
        """The metrics that it asks for and trials measure themselves."""
        return asked_measures(self.compute)

    @property
    def measures(self) -> frozenset[str]:
        """The metrics that trials must measure, for it or for the constraints."""
        return self.measured.union(one.metric for one in self.constraints).intersection(MEASURED)

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """How far an evaluation violates each constraint, by the constraint's text; 0 or less is not at all.

        Args:
            metrics: Its metrics.

        Raises:
            ObjectiveError: If a metric is missing.
        """
        for one in self.constraints:
            if one.metric not in metrics:
                raise ObjectiveError(missing_metric(one.metric, metrics))
        return {str(one): one.violation(metrics[one.metric]) for one in self.constraints}

    def __call__(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """The values, in the order of the directions.

        Raises:
            ObjectiveError: If a metric is missing, or the number of values is not that of the directions.
        """
        found = self._computed(metrics)
        _check_count(found, self.directions)
        try:
            return tuple(float(value) for value in _values(found))
        except (TypeError, ValueError) as error:
            raise ObjectiveError(f"compute_objective must return numbers; got {found!r}.") from error

    def of_trial(self, evaluations: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """A trial's values.

        Args:
            evaluations: Those of each of its evaluations so far, at least one.
        """
        if self.scope == "last":
            return tuple(evaluations[-1])
        values = [only for (only,) in evaluations]
        if self.scope == "all":
            return (max(values) if self.directions[0] == "maximize" else min(values),)
        return (fmean(values if self.scope == "avg" else values[-int(self.scope.split("-")[1]) :]),)

    def _computed(self, metrics: Mapping[str, float]) -> Any:
        if isinstance(self.compute, str):
            return self._metric(self.compute, metrics)
        if isinstance(self.compute, Sequence):
            return [self._metric(name, metrics) for name in self.compute]
        compute = default_compute_objective if self.compute is None else self.compute
        # One that adds up all metrics must not add the megabytes that only a constraint asked for.
        metrics = {k: v for k, v in metrics.items() if k not in MEASURED or k in self.measured}
        try:
            return compute(dict(metrics))
        except KeyError as error:
            return self._metric(str(error.args[0]), {k: v for k, v in metrics.items() if k != error.args[0]})

    @staticmethod
    def _metric(name: str, metrics: Mapping[str, float]) -> float:
        if name not in metrics:
            raise ObjectiveError(
                f"The objective {name!r} is reported by no evaluation; {did_you_mean(name, metrics)} "
                f"There are: {', '.join(sorted(metrics))}."
            )
        return metrics[name]


def finite(values: Sequence[float]) -> bool:
    """Whether no value is infinite or NaN."""
    return all(math.isfinite(value) for value in values)


class _Asked(dict[str, float]):
    """Made-up metrics that remember which were asked for.

    Args:
        metric: Makes one from its name.
    """

    def __init__(self, metric: Callable[[str], float]) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, name: str) -> float:
        self[name] = self._metric(name)
        return self[name]


def try_out(compute: Compute, metric: Callable[[str], float] = lambda name: 0.5) -> tuple[list[str], Any]:
    """What a ``compute_objective`` asks for and returns, found by calling it with made-up metrics.

    Args:
        compute: As for :data:`Compute`.
        metric: Makes a metric from its name.

    Returns:
        The names of the metrics, and what it returned; None where that is not known.
    """
    if isinstance(compute, str):
        return [compute], 0.5
    if isinstance(compute, Sequence):
        return list(compute), [0.5] * len(compute)
    asked = _Asked(metric)
    try:
        found = None if compute is None else compute(asked)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return [], None  # it uses the metrics as a whole; the first evaluation will tell
    return list(asked), found


class _AskedMeasures(_Asked):
    """Made-up metrics that also notice a measured one where a default is given."""

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in MEASURED else super().get(name, default)


def asked_measures(compute: Compute) -> frozenset[str]:
    """The metrics of :data:`ray_st.study.constraints.MEASURED` that a ``compute_objective`` asks for.

    Args:
        compute: As for :data:`Compute`.
    """
    if compute is None or isinstance(compute, str | Sequence):
        return frozenset([compute] if isinstance(compute, str) else compute or ()).intersection(MEASURED)
    asked = _AskedMeasures(lambda name: 0.5)
    with suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        compute(asked)
    return frozenset(asked).intersection(MEASURED)


def check_objective(
    compute: Compute,
    directions: Sequence[str],
    names: MetricNames,
    evaluates: bool,
    constraints: Sequence[Constraint] = (),
) -> None:
    """Checks that evaluations report the objective and what constraints bound, as far as names are known.

    Args:
        compute: As for :class:`Objective`.
        directions: Likewise.
        names: The metrics that evaluations of the trainer report.
        evaluates: Whether the trainer has anything to evaluate.
        constraints: The search's.

    Raises:
        ObjectiveError: If there is nothing to evaluate, no evaluation reports a metric that is asked for, or
            the number of objectives is not that of the directions.
    """
    if not evaluates:
        raise ObjectiveError("A search needs an eval_dataset or an evaluator; the trainer has neither.")
    asked, found = try_out(compute)
    if found is not None:
        _check_count(found, directions)
    wanted = {name: f"The objective {name!r} is" for name in asked}
    wanted |= {one.metric: f"constraints: the metric of {str(one)!r} is" for one in constraints}
    for name, what in wanted.items():
        if names.complete and name not in ("epoch", *MEASURED, *names.known):
            near = closest(name, [*names.known, *MEASURED])
            raise ObjectiveError(
                f"{what} reported by no evaluation of this trainer"
                + (f"; did you mean {near!r}?" if near else ".")
                + f" There are, the most similar first: {names.listed(name)}. Trials measure by themselves: "
                + f"{', '.join(MEASURED)}."
            )


def _values(found: object) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)


def _check_count(found: object, directions: Sequence[str]) -> None:
    count = len(_values(found))
    if count != len(directions):
        raise ObjectiveError(
            f"direction={list(directions)} is for {len(directions)} objective(s), but compute_objective "
            f"returns {count}: {found!r}. Give one direction for each."
        )
