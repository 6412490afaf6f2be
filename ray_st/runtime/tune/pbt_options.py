"""What a user asks for with Ray Tune's scheduler for population based training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pbt import PopulationBasedTrainingReplay
from ray.tune.search.sample import Domain

from ray_st.runtime.tune.schedulers import OBJECTIVE, TIME
from ray_st.study.mutation import as_in_ray_tune
from ray_st.study.population import Population, Rounds

_ITERATION = "training_iteration"
_KEPT = (
    *("_time_attr", "_metric", "_mode", "_perturbation_interval", "_burn_in_period", "_hyperparam_mutations"),
    *("_quantile_fraction", "_resample_probability", "_perturbation_factors", "_custom_explore_fn"),
)
"""Where Ray keeps the arguments that matter here."""

_WHERE = "PopulationBasedTraining"


def population_of(scheduler: object, maximize: bool, seed: int) -> Population | None:
    """The population a scheduler of Ray Tune asks for; None if it is another kind of scheduler.

    Args:
        scheduler: The scheduler.
        maximize: Whether more is better in the search.
        seed: The search's seed.

    Raises:
        ValueError: If it asks for something that a search does not do.
    """
    if isinstance(scheduler, PopulationBasedTrainingReplay):
        raise ValueError("scheduler: a search cannot replay a schedule; give PopulationBasedTraining.")
    if not isinstance(scheduler, PopulationBasedTraining):
        return None
    if type(scheduler) is not PopulationBasedTraining:
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has rules of its own; use PopulationBasedTraining "
            'itself, or "pbt".'
        )
    given = arguments_of(scheduler)
    _check(given, "max" if maximize else "min")
    interval = int(given["perturbation_interval"])
    resampled, factors = given["resample_probability"], given["perturbation_factors"]
    return Population(
        Rounds(max(interval, int(given["burn_in_period"])), interval),
        {
            name: as_in_ray_tune(_source(name, source), resampled, factors)
            for name, source in given["hyperparam_mutations"].items()
        },
        maximize,
        seed,
        given["quantile_fraction"],
        given["custom_explore_fn"],
    )


def arguments_of(scheduler: PopulationBasedTraining) -> dict[str, Any]:
    """The arguments the scheduler was made with, by name; Ray offers no public access to them."""
    kept = vars(scheduler)
    return {name.removeprefix("_"): kept[name] for name in _KEPT}


def _check(given: Mapping[str, Any], mode: str) -> None:
    time, interval, burn_in = (
        given[name] for name in ("time_attr", "perturbation_interval", "burn_in_period")
    )
    if time not in (TIME, _ITERATION):
        raise ValueError(
            f"{_WHERE}: time_attr={time!r}; trials are compared after the same share of their steps: use "
            f"time_attr={TIME!r} (or {_ITERATION!r}) and count perturbation_interval in evaluations."
        )
    if int(interval) != interval or int(burn_in) != burn_in:
        raise ValueError(
            f"{_WHERE}: perturbation_interval={interval} and burn_in_period={burn_in} count evaluations; "
            "they must be whole numbers."
        )
    if given["metric"] not in (None, OBJECTIVE) or given["mode"] not in (None, mode):
        raise ValueError(
            f"{_WHERE}: metric={given['metric']!r}, mode={given['mode']!r}; trials are compared by the "
            "search's objective and direction: leave both out."
        )


def _source(name: str, given: object) -> Sequence[Any] | Callable[[int], Any]:
    if isinstance(given, Mapping):
        raise ValueError(
            f"hyperparam_mutations: {name!r} is a dict; hyperparameters of a search have no parts."
        )
    if isinstance(given, Domain):
        return lambda seed: given.sample(random_state=seed)
    if callable(given):
        return lambda seed: given()
    assert isinstance(given, Sequence)  # Ray accepts nothing else
    return given
