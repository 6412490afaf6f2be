"""What ``hyperparameter_search`` takes besides the space and the objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import optuna

from ray_st.util.names import did_you_mean
from ray_st.util.number_checks import is_whole

BACKENDS = ("ray", "optuna")
SCHEDULERS = ("asha", "halving", "median", "hyperband", "pbt")

_SAME = {
    "study_name": "name",
    "timeout": "time_budget_s",
    "n_jobs": "max_concurrent_trials",
    "keep_checkpoints_num": "keep_checkpoints",
}
"""Names that Optuna and older Ray Tunes have for the same thing."""

_REPLACED = {
    "pruner": 'Trials are stopped by a scheduler: scheduler="asha", "median" or "hyperband".',
    "search_alg": "Parameters are suggested by an Optuna sampler: sampler=...",
    "load_if_exists": "A search of the same name goes on by itself: name=...",
    "local_dir": "A search is kept in the training arguments' output_dir, or in run_config.storage_path.",
    "storage_path": "Checkpoints go where run_config.storage_path says.",
    "progress_reporter": "A search tells of its trials by itself.",
}
"""What is meant by arguments of Optuna's and Ray Tune's that have no counterpart."""


@dataclass(frozen=True)
class SearchOptions:
    """The keyword arguments of a search.

    Args:
        name: Names the search's folder inside ``output_dir``; a search of this name that was cut off goes on. By default
            a new name each time.
        seed: Seed of the suggestions; by default that of the training arguments.
        sampler: An Optuna sampler, the name of one such as ``"GPSampler"``, or a function that makes one from a seed.
            By default seeded TPE, random for the first quarter of the trials (4 to 10). Named and made ones are made
            anew for each suggestion, from the seed and the trial's number, so that a search that was cut off suggests
            what it would have.
        scheduler: Which trials are stopped early: ``"asha"`` (default for one objective), ``"median"``,
            ``"hyperband"``, None for none, or a Ray Tune scheduler that takes its metric from the search. ``"halving"``:
            trials wait at a rung, with a checkpoint, until it is certain who is among the best there. ``"pbt"``, or Ray
            Tune's ``PopulationBasedTraining``: none are stopped; bad ones go on as copies of good ones, with other
            parameters.
        grace_period: Evaluations that a trial has before it can be stopped, or before the first rung of ``"halving"``;
            before it is compared for the first time, for ``"pbt"``.
        perturbation_interval: Evaluations from one comparison of the trials to the next, for ``"pbt"``.
        reduction_factor: One in how many trials goes on at each rung of ``"asha"``, ``"halving"`` and ``"hyperband"``.
        rungs: Evaluates each trial so many times, evenly, whatever ``eval_strategy`` says; evaluations are where
            trials can be stopped. By default ``eval_strategy`` decides.
        points_to_evaluate: Parameters, by name, of the first trials.
        data_init: A function of a trial that makes its training data, where these are part of the search; each trial
            then encodes its own. By default all trials share the trainer's.
        warm_start: Folder of an earlier search with the same parameters to learn from.
        storage: Optuna storage, or the URL of a database such as ``"sqlite:///study.db"``, in which dashboards can
            follow. By default the study is in memory; the records in the folder suffice to go on.
        resources_per_trial: What a trial on one worker gets, such as ``{"CPU": 2, "GPU": 0.5}``; by default what
            ``scaling_config`` gives a worker, else one GPU if there are GPUs, else one CPU.
        max_concurrent_trials: Most trials at a time; by default as many as the cluster has room for.
        max_failures: How often a trial whose process is lost is started again, from its last checkpoint.
        keep_checkpoints: Checkpoints of how many finished trials are kept: the best ones'.
        time_budget_s: Seconds after which no more trials are started and running ones are stopped.
    """

    name: str | None = None
    seed: int | None = None
    sampler: Any = None
    scheduler: Any = "asha"
    grace_period: int = 1
    perturbation_interval: int = 1
    reduction_factor: int = 3
    rungs: int | None = None
    points_to_evaluate: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    data_init: Callable[[Any], Any] | None = None
    warm_start: str | None = None
    storage: Any = None
    resources_per_trial: Mapping[str, float] | None = None
    max_concurrent_trials: int | None = None
    max_failures: int = 1
    keep_checkpoints: int = 1
    time_budget_s: float | None = None


def as_options(given: Mapping[str, Any], objectives: int) -> SearchOptions:
    """Checks a search's keyword arguments.

    Args:
        given: Them.
        objectives: How many objectives there are; several cannot be scheduled.

    Raises:
        ValueError: If a name is unknown, or a value cannot be meant.
    """
    given = _renamed(given)
    if objectives > 1:
        given = {"scheduler": None, **given}
        if given["scheduler"] is not None:
            raise ValueError("A search with several objectives cannot stop trials early: use scheduler=None.")
    options = SearchOptions(**{**given, "sampler": as_sampler(given.get("sampler"))})
    for name, least in (
        ("grace_period", 1),
        ("perturbation_interval", 1),
        ("reduction_factor", 2),
        ("rungs", 1),
        ("max_concurrent_trials", 1),
    ):
        _check_number(name, getattr(options, name), least)
    _check_number("max_failures", options.max_failures, 0)
    _check_number("keep_checkpoints", options.keep_checkpoints, 0)
    if isinstance(options.scheduler, str) and options.scheduler not in SCHEDULERS:
        raise ValueError(
            f"scheduler: expected one of {list(SCHEDULERS)}, None or a Ray Tune scheduler, found {options.scheduler!r}; "
            f"{did_you_mean(options.scheduler, SCHEDULERS)}"
        )
    return options


def as_sampler(given: Any) -> Any:
    """A sampler by its name as a function that makes it from a seed; anything else as it is.

    Args:
        given: A name in ``optuna.samplers``, a sampler, a function, or None.

    Raises:
        ValueError: If Optuna has no sampler of this name that needs no more than a seed.
    """
    if not isinstance(given, str):
        return given
    known = [name for name in optuna.samplers.__all__ if _needs_only_seed(getattr(optuna.samplers, name))]
    if given not in known:
        raise ValueError(f"sampler: unknown name {given!r}; {did_you_mean(given, known)}")
    kind = getattr(optuna.samplers, given)
    return lambda seed: kind(seed=seed)


def _needs_only_seed(part: Any) -> bool:
    if not (isinstance(part, type) and issubclass(part, optuna.samplers.BaseSampler)):
        return False
    parameters = inspect.signature(part).parameters
    return "seed" in parameters and all(
        one.default is not inspect.Parameter.empty for one in parameters.values()
    )


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments under our names."""
    known = [option.name for option in fields(SearchOptions)]
    renamed = {_SAME.get(name, name): value for name, value in given.items()}
    for name in renamed:
        if name not in known:
            hint = _REPLACED.get(name) or did_you_mean(name, [*known, *_SAME])
            raise ValueError(f"hyperparameter_search has no argument {name!r}; {hint}")
    return renamed


def _check_number(name: str, value: Any, least: int) -> None:
    optional = value is None and name in ("rungs", "max_concurrent_trials")
    if not optional and not is_whole(value, least):
        raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r}.")


def trials_wanted(n_trials: int, points: Sequence[Mapping[str, Any]]) -> int:
    """How many trials there will be; 0 with points is a sweep over the points.

    Raises:
        ValueError: If there would be none, or fewer than points.
    """
    if not is_whole(n_trials, least=0 if points else 1):
        raise ValueError(
            f"n_trials: expected a whole number of at least 1 (or 0 with points_to_evaluate), found {n_trials!r}."
        )
    return n_trials or len(points)


def as_backend(backend: Any) -> str:
    """The backend's name: ``"ray"`` where none is given.

    Args:
        backend: A name, a member of transformers' ``HPSearchBackend``, or None.

    Raises:
        ValueError: If it is another one.
    """
    name = "ray" if backend is None else str(getattr(backend, "value", backend))
    if name not in BACKENDS:
        raise ValueError(
            f"backend: expected one of {list(BACKENDS)}, found {name!r}; {did_you_mean(name, BACKENDS)}"
        )
    return name
