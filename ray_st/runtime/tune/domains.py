"""Ray Tune's domains, drawn by an Optuna trial."""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform


def suggest(trial: BaseTrial, name: str, value: object) -> Any:
    """Draws from a domain. Values that are not domains are returned unchanged.

    Args:
        trial: An Optuna trial.
        name: The parameter's name.
        value: A domain such as ``tune.loguniform(1e-6, 1e-4)``, or a constant.

    Raises:
        ValueError: If Optuna has no equivalent.
    """
    if isinstance(value, dict) and set(value) == {"grid_search"}:
        raise ValueError(
            f"hp_space: {name!r} is a grid_search; use tune.choice({value['grid_search']!r}), or "
            "points_to_evaluate."
        )
    if not isinstance(value, Domain):
        return value
    sampler: Any = value.get_sampler()
    step = None
    if isinstance(sampler, Quantized):
        sampler, step = sampler.sampler, sampler.q
    log = isinstance(sampler, LogUniform)
    if isinstance(value, Categorical):
        return trial.suggest_categorical(name, list(value.categories))
    if isinstance(value, Float) and isinstance(sampler, Uniform | LogUniform) and not (log and step):
        return trial.suggest_float(name, value.lower, value.upper, step=step, log=log)
    if isinstance(value, Integer) and isinstance(sampler, Uniform | LogUniform):
        # Ray's upper end is exclusive, unless there is a step.
        upper = value.upper - (0 if step else 1)
        return trial.suggest_int(name, value.lower, upper, step=int(step or 1), log=log)
    raise ValueError(
        f"hp_space: {name!r} is {value.domain_str or value!r} with a sampler ({type(sampler).__name__}) that "
        "Optuna does not have. Use tune.uniform, loguniform, quniform, randint, lograndint, qrandint or "
        "choice, or a function of trial."
    )
