"""What a user asks for with Ray Tune's scheduler for population based training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pbt import PopulationBasedTrainingReplay
from ray.tune.search.sample import Domain

from ray_st.runtime.tune.schedulers import OBJECTIVE, TIME

_ITERATION = "training_iteration"


@dataclass(frozen=True)
class Asked:
    """What a scheduler of Ray Tune's asks for.

    Args:
        first: The first evaluation after which trials are compared.
        interval: Evaluations from one comparison to the next.
        fraction: How many trials are copied, and how many go on as copies.
        resampled: How often a value is drawn anew.
        factors: What numbers are else multiplied with.
        mutations: By parameter, values in order or a function that draws one from a seed.
        explore: Has the last word on values; None for none.
    """

    first: int
    interval: int
    fraction: float
    resampled: float
    factors: tuple[float, ...]
    mutations: dict[str, Any]
    explore: Callable[[dict[str, Any]], dict[str, Any]] | None


def asked_by(scheduler: Any, mode: str) -> Asked | None:
    """What a scheduler of Ray Tune's for population based training asks for; None if it is another scheduler.

    Args:
        scheduler: The scheduler.
        mode: The search's direction, ``"min"`` or ``"max"``.

    Raises:
        ValueError: If it asks for something that a search does not do.
    """
    if isinstance(scheduler, PopulationBasedTrainingReplay):
        raise ValueError(
            "scheduler: a search does not replay one of Ray Tune's; give PopulationBasedTraining."
        )
    if not isinstance(scheduler, PopulationBasedTraining):
        return None
    if type(scheduler) is not PopulationBasedTraining:
        raise ValueError(
            f'scheduler: {type(scheduler).__name__} has rules of its own; use PopulationBasedTraining itself, or "pbt".'
        )
    _check(scheduler, mode)
    interval = int(scheduler._perturbation_interval)
    return Asked(
        first=max(interval, int(scheduler._burn_in_period)),
        interval=interval,
        fraction=scheduler._quantile_fraction,
        resampled=scheduler._resample_probability,
        factors=tuple(scheduler._perturbation_factors),
        mutations={name: _source(name, given) for name, given in scheduler._hyperparam_mutations.items()},
        explore=scheduler._custom_explore_fn,
    )


def _check(scheduler: PopulationBasedTraining, mode: str) -> None:
    time, interval, burn_in = (
        scheduler._time_attr,
        scheduler._perturbation_interval,
        scheduler._burn_in_period,
    )
    if time not in (TIME, _ITERATION):
        raise ValueError(
            f"PopulationBasedTraining: time_attr={time!r}; trials are compared after the same share of their steps: use "
            f"time_attr={TIME!r} (or {_ITERATION!r}) and count perturbation_interval in evaluations."
        )
    if int(interval) != interval or int(burn_in) != burn_in:
        raise ValueError(
            f"PopulationBasedTraining: perturbation_interval={interval} and burn_in_period={burn_in} count evaluations; "
            "they must be whole numbers."
        )
    if scheduler._metric not in (None, OBJECTIVE) or scheduler._mode not in (None, mode):
        raise ValueError(
            f"PopulationBasedTraining: metric={scheduler._metric!r}, mode={scheduler._mode!r}; trials are compared by the "
            "search's objective and direction: leave both out."
        )


def _source(name: str, given: Any) -> Any:
    if isinstance(given, Mapping):
        raise ValueError(f"hyperparam_mutations: {name!r} is a dict; parameters of a search have no parts.")
    if isinstance(given, Domain):
        return lambda seed: given.sample(random_state=seed)
    return (lambda seed: given()) if callable(given) else list(given)
