"""Which trials Ray Tune stops early."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from ray_st.runtime.tune.dominance_scheduler import OBJECTIVES, VIOLATION, DominanceScheduler
from ray_st.runtime.tune.trial_loop import NUMBER
from ray_st.study.constraints import ranked_value, total

TIME = "evaluation"
"""The unit of rungs: evaluations of a trial, each a share of its own length."""

OBJECTIVE = "objective"
"""Key of what trials are ranked by in their reports: the first objective, if they satisfy the constraints."""

_NO_END = 1_000_000

_BRACKETS = {"asha": 1, "hyperband": 3}
"""Hyperband without waiting at rungs: each bracket starts to stop trials later than the one before."""


def make_scheduler(
    given: str | TrialScheduler | None,
    mode: str,
    grace_period: int,
    reduction_factor: int,
    directions: Sequence[str] = (),
) -> TrialScheduler:
    """A scheduler of Ray Tune.

    Args:
        given: ``"asha"``, ``"median"``, ``"hyperband"``, None, or a scheduler, which is used with the
            search's objective if it names no metric.
        mode: ``"min"`` or ``"max"``.
        grace_period: Evaluations before a trial can be stopped.
        reduction_factor: One in this many trials continues at each rung.
        directions: Those of several objectives, for ``"asha"``; one or none for a single one.

    Raises:
        ValueError: If it is something else.
    """
    if given is None:
        return FIFOScheduler()
    if isinstance(given, TrialScheduler):
        # Here, not by the tuner: trials of an earlier driver are replayed before it starts.
        if not given.metric:
            given.set_search_properties(OBJECTIVE, mode)
        return NumberedTrials(given) if isinstance(given, AsyncHyperBandScheduler) else given
    if given == "asha" and len(directions) > 1:
        return NumberedTrials(DominanceScheduler(directions, grace_period, reduction_factor))
    if given in _BRACKETS:
        rungs = AsyncHyperBandScheduler(
            time_attr=TIME,
            metric=OBJECTIVE,
            mode=mode,
            max_t=_NO_END,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            brackets=_BRACKETS[given],
            stop_last_trials=False,
        )
        return NumberedTrials(rungs)
    if given == "median":
        return MedianStoppingRule(time_attr=TIME, metric=OBJECTIVE, mode=mode, grace_period=grace_period)
    raise ValueError(f"scheduler: expected a Ray Tune scheduler, found {given!r}.")


class NumberedTrials(TrialScheduler):
    """Passes trials to a scheduler with rungs by their number in the search.

    Ray Tune's identifiers are new with each driver. By its number, a trial that an earlier driver began is
    the same one: it passes no rung twice, and others are compared with it before it has continued.

    Args:
        inner: The scheduler.
    """

    def __init__(self, inner: AsyncHyperBandScheduler | DominanceScheduler) -> None:
        super().__init__()
        self.inner = inner
        self._there: set[int] = set()

    @property
    def metric(self) -> str | None:
        """The scheduler's."""
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        """As the scheduler says."""
        return bool(self.inner.supports_buffered_results)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """As the scheduler's."""
        return bool(self.inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Adds a trial, unless it is known."""
        if trial.config[NUMBER] not in self._there:
            self._there.add(trial.config[NUMBER])
            self.inner.on_trial_add(tune_controller, _numbered(trial))

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nothing: a trial that is started again is the same one."""

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial continues."""
        return str(self.inner.on_trial_result(tune_controller, _numbered(trial), result))

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Takes the last evaluation of a trial."""
        self.inner.on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Removes a trial that has not run."""
        self._there.discard(trial.config[NUMBER])
        self.inner.on_trial_remove(tune_controller, _numbered(trial))

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The trial that gets a process next."""
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """As the scheduler's."""
        return str(self.inner.debug_string())


def _numbered(trial: Trial) -> Any:
    """All that a scheduler with rungs reads of a trial."""
    return SimpleNamespace(trial_id=str(trial.config[NUMBER]))


def remember(
    scheduler: TrialScheduler, evaluations: Iterable[tuple[int, Mapping[str, Any]]], maximize: bool = True
) -> set[int]:
    """Replays evaluations to a new scheduler, so that a continued search stops trials as strictly as before.

    Only the rungs of ``"asha"`` and ``"hyperband"`` can be replayed.

    Args:
        scheduler: The scheduler.
        evaluations: A trial's number, and an evaluation's index, objectives and violations of constraints, in
            the order of reports.
        maximize: Whether more is better, of the first objective.

    Returns:
        The trials that were stopped by their last evaluation.
    """
    stopped: dict[int, bool] = {}
    if isinstance(scheduler, NumberedTrials):
        controller: Any = None
        for number, event in evaluations:
            trial: Any = SimpleNamespace(config={NUMBER: number})
            scheduler.on_trial_add(controller, trial)
            decision = scheduler.on_trial_result(controller, trial, _report(event, maximize))
            stopped[number] = decision == TrialScheduler.STOP
    return {number for number, was in stopped.items() if was}


def _report(event: Mapping[str, Any], maximize: bool) -> dict[str, Any]:
    """All that a scheduler with rungs reads of a trial's report, from the event that recorded it."""
    violations = event.get("violations")
    return {
        TIME: event["evaluation"],
        OBJECTIVE: ranked_value(event["objectives"][0], violations, maximize),
        OBJECTIVES: event["objectives"],
        VIOLATION: total(violations),
    }
