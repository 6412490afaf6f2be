"""Which trials Ray Tune stops early."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from ray_st.runtime.tune.dominance_scheduler import OBJECTIVES, VIOLATION, DominanceScheduler
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
        given: ``"asha"``, ``"median"``, ``"hyperband"``, None, or a scheduler, which is returned,
            with the search's objective if it names no metric.
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
        if (
            not given.metric
        ):  # here, not by the tuner: trials of an earlier driver are replayed before it starts
            given.set_search_properties(OBJECTIVE, mode)
        return given
    if given == "asha" and len(directions) > 1:
        return DominanceScheduler(directions, grace_period, reduction_factor)
    if given in _BRACKETS:
        return AsyncHyperBandScheduler(
            time_attr=TIME,
            metric=OBJECTIVE,
            mode=mode,
            max_t=_NO_END,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            brackets=_BRACKETS[given],
            stop_last_trials=False,
        )
    if given == "median":
        return MedianStoppingRule(time_attr=TIME, metric=OBJECTIVE, mode=mode, grace_period=grace_period)
    raise ValueError(f"scheduler: expected a Ray Tune scheduler, found {given!r}.")


def remember(
    scheduler: TrialScheduler, histories: Iterable[Sequence[Mapping[str, Any]]], maximize: bool = True
) -> None:
    """Replays ended trials to a new scheduler, so that a continued search stops trials as strictly as before.

    Only the rungs of ``"asha"`` and ``"hyperband"`` can be replayed.

    Args:
        scheduler: The scheduler.
        histories: The evaluations of each trial: their index, objectives and violations of constraints.
        maximize: Whether more is better, of the first objective.
    """
    for number, history in enumerate(histories):
        replay(scheduler, f"before-{number}", history, maximize)


def replay(
    scheduler: TrialScheduler, trial_id: str, history: Sequence[Mapping[str, Any]], maximize: bool = True
) -> None:
    """Replays a trial to a new scheduler: others are compared with it, and it passes no rung twice.

    Args:
        scheduler: The scheduler; does nothing with kinds other than for :func:`remember`.
        trial_id: The trial's identifier; that of Ray Tune if the trial continues.
        history: Its evaluations, as for :func:`remember`.
        maximize: Likewise.
    """
    if not isinstance(scheduler, AsyncHyperBandScheduler | DominanceScheduler):
        return
    controller: Any = None
    trial: Any = SimpleNamespace(trial_id=trial_id)
    scheduler.on_trial_add(controller, trial)
    for event in history:
        value = ranked_value(event["objectives"][0], event.get("violations"), maximize)
        result = {
            TIME: event["evaluation"],
            OBJECTIVE: value,
            OBJECTIVES: event["objectives"],
            VIOLATION: total(event.get("violations")),
        }
        scheduler.on_trial_result(controller, trial, result)
    scheduler.on_trial_remove(controller, trial)
