"""The keyword arguments of ``hyperparameter_search`` besides the space and the objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import optuna
from transformers.trainer_utils import HPSearchBackend

from ray_st.study.constraints import parse_all
from ray_st.study.termination import check_terminator
from ray_st.util.names import did_you_mean
from ray_st.util.value_checks import is_whole

BACKENDS = ("ray", "optuna")
SCHEDULERS = ("asha", "halving", "median", "hyperband", "pbt")

_SAME = {
    "study_name": "name",
    "timeout": "time_budget_s",
    "n_jobs": "max_concurrent_trials",
    "keep_checkpoints_num": "keep_checkpoints",
}
"""Other names for the same option, from Optuna and older versions of Ray Tune."""

_AS_MANY_AS_FIT = 1_000_000
"""More trials than any cluster has room for."""

_REPLACED = {
    "constraints_func": 'Constraints are on metrics: constraints=["model_mib <= 90"].',
    "pruner": 'Trials are stopped by a scheduler: scheduler="asha", "median" or "hyperband".',
    "search_alg": "Parameters are suggested by an Optuna sampler: sampler=...",
    "load_if_exists": "A search of the same name is always continued: name=...",
    "local_dir": "A search is kept in the training arguments' output_dir, or in run_config.storage_path.",
    "storage_path": "Checkpoints go where run_config.storage_path says.",
    "progress_reporter": "A search reports its trials by itself.",
}
"""What to use in place of options of Optuna and Ray Tune that have no counterpart."""

_LEAST = {
    **dict.fromkeys(("grace_period", "perturbation_interval", "rungs", "max_concurrent_trials"), 1),
    "finalists": 1,
    **dict.fromkeys(("max_failures", "keep_checkpoints", "confirm"), 0),
    "reduction_factor": 2,
}
"""The least value of each whole number."""


@dataclass(frozen=True)
class SearchOptions:
    """The keyword arguments of a search.

    Args:
        name: Names the search's folder inside ``output_dir``; an interrupted search of this name is
            continued. By default a new name each time.
        seed: Seed of the suggestions; by default that of the training arguments.
        sampler: An Optuna sampler, the name of one such as ``"GPSampler"``, or a function that makes one from
            a seed. By default seeded TPE, random for the first quarter of the trials (4 to 10). Samplers
            given by name or function are made again for each suggestion, from the seed and the trial's
            number, so that a continued search suggests what it would have without the interruption.
        scheduler: Which trials are stopped early: ``"asha"`` (default for one objective), ``"median"``,
            ``"hyperband"``, None for none, or a Ray Tune scheduler that takes its metric from the search.
            With several objectives None (default) or ``"asha"``, which stops trials that others dominate.
            ``"halving"``: trials wait at a rung, with a checkpoint, until it is certain which ones are the
                best there.
            ``"pbt"``, or Ray Tune's ``PopulationBasedTraining``: none are stopped; bad ones continue as
            copies of good ones, with other hyperparameters.
        grace_period: Evaluations before a trial can be stopped, before the first rung of ``"halving"``, or
            before the first comparison of ``"pbt"``.
        perturbation_interval: Evaluations from one comparison of the trials to the next, for ``"pbt"``.
        reduction_factor: One in this many trials continues at each rung of ``"asha"``, ``"halving"`` and
            ``"hyperband"``.
        rungs: Number of evenly spaced evaluations of each trial, in place of ``eval_strategy``; trials can be
            stopped at evaluations only. By default ``eval_strategy`` decides.
        constraints: What a trial's last evaluation must satisfy to count, such as ``"model_mib <= 90"`` or
            ``"eval_dev_cosine_recall@10 >= 0.8"``: a metric, ``<=`` or ``>=``, a number. Trials measure
            ``model_mib`` (weights and buffers in the types they are saved in), ``peak_memory_mib`` (of
            the GPU if there is one, else resident memory; of several workers the largest) and ``encode_ms``
            (median milliseconds for one of a few fixed texts, one at a time) themselves. Trials that violate
            one rank below all others; one whose size or memory is too large is stopped.
        points_to_evaluate: Hyperparameters, by name, of the first trials.
        data_init: A function of a trial that makes its training data, if these are part of the search; each
            trial then encodes its own. By default all trials share the trainer's.
        warm_start: Folder of an earlier search with the same parameters to learn from.
        storage: Optuna storage, or the URL of a database such as ``"sqlite:///study.db"``, which dashboards
            can show. By default the study is in memory; the records in the folder suffice to continue.
        resources_per_trial: Resources of a trial on one worker, such as ``{"CPU": 2, "GPU": 0.5}``; by
            default those ``scaling_config`` gives a worker, else one GPU if there are GPUs, else one CPU.
        max_concurrent_trials: Most trials at a time; by default as many as the cluster has room for, or one
            with ``backend="optuna"``.
        max_failures: How often a trial whose process is lost is restarted, from its last checkpoint.
        keep_checkpoints: For how many finished trials to keep the checkpoints; the best ones are chosen.
        terminator: True to end the search once Optuna expects no more improvement (EMMREvaluator with
            MedianErrorEvaluator, asked after each complete trial), or a terminator or improvement evaluator
            of ``optuna.terminator``. Running trials end as usual. For one objective without constraints.
        time_budget_s: Seconds after which no more trials are started and running ones are stopped.
        confirm: With how many fresh seeds the best few trials are trained again once the search is done. The
            best value of a search is that of its luckiest trial; the winner is then the finalist with the
            best mean over these seeds, or a cheaper one that is no worse. 0 (default): not at all. May be
            raised when the search is continued.
        finalists: How many of the best complete trials are trained again; trials that differ in their seed
            only count as one.
    """

    name: str | None = None
    seed: int | None = None
    sampler: Any = None
    scheduler: Any = "asha"
    grace_period: int = 1
    perturbation_interval: int = 1
    reduction_factor: int = 3
    rungs: int | None = None
    constraints: Sequence[str] = ()
    points_to_evaluate: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    data_init: Callable[[Any], Any] | None = None
    warm_start: str | None = None
    storage: Any = None
    resources_per_trial: Mapping[str, float] | None = None
    max_concurrent_trials: int | None = None
    max_failures: int = 1
    keep_checkpoints: int = 1
    terminator: Any = None
    time_budget_s: float | None = None
    confirm: int = 0
    finalists: int = 3


def as_options(given: Mapping[str, Any], objectives: int) -> SearchOptions:
    """Checks a search's keyword arguments.

    Args:
        given: The keyword arguments.
        objectives: How many objectives there are; with several, trials are stopped early on request only, and
            only by ``"asha"``.

    Raises:
        ValueError: If a name is unknown, or a value is invalid.
    """
    given = _renamed(given)
    if objectives > 1:
        given = {"scheduler": None, **given}
        if given["scheduler"] not in (None, "asha"):
            raise ValueError(
                f"scheduler={given['scheduler']!r} compares one objective, and this search has {objectives}: "
                'use scheduler="asha", which stops trials that others dominate, or None.'
            )
    options = SearchOptions(**{**given, "sampler": as_sampler(given.get("sampler"))})
    check_terminator(options.terminator, objectives, bool(parse_all(options.constraints)))
    for name, least in _LEAST.items():
        _check_number(name, getattr(options, name), least)
    if options.confirm and objectives > 1:
        raise ValueError(
            f"confirm={options.confirm}: a search with several objectives has no single winner that could be "
            "confirmed: use confirm=0, and train the points of its front with several seeds, such as with a "
            "sweep (points_to_evaluate, n_trials=0)."
        )
    if isinstance(options.scheduler, str) and options.scheduler not in SCHEDULERS:
        raise ValueError(
            f"scheduler: expected one of {list(SCHEDULERS)}, None or a Ray Tune scheduler, found "
            f"{options.scheduler!r}; {did_you_mean(options.scheduler, SCHEDULERS)}"
        )
    return options


def as_sampler(given: object) -> Any:
    """A sampler's name as a function that makes it from a seed; anything else unchanged.

    Args:
        given: A name in ``optuna.samplers``, a sampler, a function, or None.

    Raises:
        ValueError: If Optuna has no sampler of this name that can be made from a seed alone.
    """
    if not isinstance(given, str):
        return given
    parts = vars(optuna.samplers)
    known = [name for name in optuna.samplers.__all__ if _needs_only_seed(parts[name])]
    if given not in known:
        raise ValueError(f"sampler: unknown name {given!r}; {did_you_mean(given, known)}")
    return lambda seed: parts[given](seed=seed)


def _needs_only_seed(part: object) -> bool:
    if not (isinstance(part, type) and issubclass(part, optuna.samplers.BaseSampler)):
        return False
    parameters = inspect.signature(part).parameters
    return "seed" in parameters and all(
        one.default is not inspect.Parameter.empty for one in parameters.values()
    )


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by the names used here."""
    known = [option.name for option in fields(SearchOptions)]
    if given.get("n_jobs") == -1:  # Optuna's word for as many as there is room for
        given = {**given, "n_jobs": _AS_MANY_AS_FIT}
    renamed = {_SAME.get(name, name): value for name, value in given.items()}
    for name in renamed:
        if name not in known:
            hint = _REPLACED.get(name) or did_you_mean(name, [*known, *_SAME])
            raise ValueError(f"hyperparameter_search has no argument {name!r}; {hint}")
    return renamed


def _check_number(name: str, value: object, least: int) -> None:
    optional = value is None and name in ("rungs", "max_concurrent_trials")
    if not optional and not is_whole(value, least):
        raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r}.")


def trials_wanted(n_trials: int, points: Sequence[Mapping[str, Any]]) -> int:
    """How many trials there will be; 0 with points is a sweep over the points.

    Raises:
        ValueError: If there would be none.
    """
    if not is_whole(n_trials, least=0 if points else 1):
        raise ValueError(
            "n_trials: expected a whole number of at least 1 (or 0 with points_to_evaluate), found "
            f"{n_trials!r}."
        )
    return n_trials or len(points)


def as_backend(backend: str | HPSearchBackend | None) -> str:
    """The backend's name; ``"ray"`` by default.

    Args:
        backend: A name, a member of transformers' ``HPSearchBackend``, or None.

    Raises:
        ValueError: If it is another one.
    """
    name = str(backend.value if isinstance(backend, HPSearchBackend) else backend or "ray")
    if name not in BACKENDS:
        raise ValueError(
            f"backend: expected one of {list(BACKENDS)}, found {name!r}; {did_you_mean(name, BACKENDS)}"
        )
    return name
