"""The front door of a search: everything is proved here, then Ray Tune runs the trials."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.trainer_utils import BestRun, number_of_arguments

from ray_st.training_args import EvalOn
from ray_st.tune.arguments import SpaceError, argument_names, check_names
from ray_st.tune.candidate import Template, call_model_init, make_loss, takes_trial
from ray_st.tune.drawn import DrawnTrial
from ray_st.tune.objective import Objective, as_directions, check_objective
from ray_st.tune.options import SearchOptions, as_backend, as_options, trials_wanted
from ray_st.tune.progress import Progress, drop_checkpoints
from ray_st.tune.records import JOURNAL, TABLE, Journal, Summary, TrialRecord, check_settings, fold
from ray_st.tune.space import Point, Space, as_space, describe, probe
from ray_st.tune.study import Study
from ray_st.util.names import did_you_mean


class SearchFailed(RuntimeError):
    """No trial of a search was completed."""


_MODELS_TRIED = 3
"""How many models are made, at most, to find out which parameters ``model_init`` reads."""


def hyperparameter_search(
    trainer: Any,
    hp_space: Any = None,
    compute_objective: Callable[[dict[str, float]], Any] | str | None = None,
    n_trials: int = 20,
    direction: str | Sequence[str] = "minimize",
    backend: Any = None,
    hp_name: Callable[[Any], str] | None = None,
    **kwargs: Any,
) -> BestRun | list[BestRun]:
    """Searches for good hyperparameters; ``SentenceTransformerTrainer.hyperparameter_search`` calls it.

    Args:
        trainer: The trainer, with ``model_init``, and with the loss as a function of the model.
        hp_space: A function of an Optuna trial, or a dict of Ray Tune domains.
        compute_objective: The objective from the figures of an evaluation, or the name of one of them.
        n_trials: How many trials.
        direction: Of the objective, or of each of several.
        backend: ``"ray"`` (default), or ``"optuna"`` for the same search one trial at a time.
        hp_name: A trial's name from the Optuna trial.
        kwargs: As for :class:`ray_st.tune.options.SearchOptions`.

    Returns:
        The best run; for several objectives, those that none beats in all.

    Raises:
        ValueError: If the search cannot work; before any trial starts, as far as can be known.
    """
    directions, backend = as_directions(direction), as_backend(backend)
    options = as_options(kwargs, len(directions))
    wanted = trials_wanted(n_trials, options.points_to_evaluate)
    _check_trainer(trainer)
    check_objective(compute_objective, trainer.evaluator, trainer.eval_dataset)
    objective = Objective(compute_objective, directions)
    space = as_space(hp_space, _suggest)
    points = probe(space)
    distributions = describe(points)
    _check_points(options.points_to_evaluate, distributions)
    template = _prove(_template(trainer, options), points, trainer.args)
    seed = trainer.args.seed if options.seed is None else options.seed
    folder = _folder(str(trainer.args.output_dir), options.name)
    settings = {"space": distributions, "directions": list(directions), "seed": seed}
    check_settings(folder, settings)
    study = _study(space, objective, folder, wanted, seed, options, hp_name)
    sequential = backend == "optuna"
    _run(trainer, template, study, points, objective, folder, sequential, options)
    return _results(study, folder, sequential, len(directions))


def _suggest(trial: Any, name: str, value: Any) -> Any:
    if not type(value).__module__.startswith("ray.") and not isinstance(value, dict):
        return value
    from ray_st.runtime.tuning_domains import suggest

    return suggest(trial, name, value)


# ---- proofs ----


def _check_trainer(trainer: Any) -> None:
    if trainer.model_init is None:
        raise ValueError(
            "hyperparameter_search needs a trainer with model_init, a function that makes the model anew for each trial, in "
            "place of model: SentenceTransformerTrainer(model_init=lambda trial: SentenceTransformer(...), ...)."
        )
    if trainer.args.eval_on == EvalOn.BACKGROUND:
        raise ValueError('A search evaluates where it trains: use eval_on="workers".')
    if trainer.train_dataset is None:
        raise ValueError("A search needs a train_dataset; the trainer has none.")


def _check_points(points: Sequence[Mapping[str, Any]], distributions: Mapping[str, Any]) -> None:
    for place, point in enumerate(points):
        for name in point:
            if name not in distributions:
                raise SpaceError(
                    f"points_to_evaluate[{place}]: {name!r} is not in the space; {did_you_mean(name, distributions)}"
                )


def _template(trainer: Any, options: SearchOptions) -> Template:
    described = trainer._describe()
    bare = {**described.options, "model": None, "loss": None}
    return Template(
        description=dataclasses.replace(described, options=bare),
        model_init=trainer.model_init,
        loss_init=trainer.loss_init,
        base=None,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        rungs=options.rungs,
    )


def _prove(template: Template, points: Sequence[Point], args: Any) -> Template:
    """Refuses names that nothing uses and values that arguments refuse; keeps the model if trials don't change it."""
    arguments = argument_names(args)
    names = {name for point in points for name in point.values}
    for point in points:
        _check_plain(point)
        template.args(point.values)
    free = names - arguments
    losses = template.loss_init
    parts = losses.values() if isinstance(losses, Mapping) else [losses]
    readers = [
        *(["model_init"] if number_of_arguments(template.model_init) else []),
        *(["the loss initialiser"] if any(takes_trial(part) for part in parts) else []),
    ]
    if not readers:
        check_names(sorted(names), arguments, (), readers)
    tried = sorted(points, key=lambda point: -len(free & set(point.values)))[:_MODELS_TRIED]
    read, asked_for, model = set(), set(), template.base
    for point in tried:
        trial = DrawnTrial(0, point.values)
        set_seed(args.seed)
        model = call_model_init(template.model_init, trial)
        asked_for |= trial.read
        make_loss(losses, model, trial)
        read |= trial.read
        if free <= read:
            break
    check_names(sorted(names), arguments, read, readers)
    depends = asked_for or "seed" in names
    return template if depends else dataclasses.replace(template, base=model.cpu())


def _check_plain(point: Point) -> None:
    for name, value in point.values.items():
        try:
            json.dumps(value)
        except TypeError:
            raise SpaceError(
                f"hp_space: {name!r} is {value!r}; a parameter is a number, a text, true or false, or None. Draw a name, and "
                "make what it stands for in model_init."
            ) from None


# ---- the run ----


def _folder(output_dir: str, name: str | None) -> Path:
    folder = Path(output_dir).absolute() / (name or f"search-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _study(
    space: Space,
    objective: Objective,
    folder: Path,
    wanted: int,
    seed: int,
    options: SearchOptions,
    hp_name: Callable[[Any], str] | None,
) -> Study:
    earlier: list[TrialRecord] = []
    if options.warm_start is not None:
        source = Path(options.warm_start) / JOURNAL
        if not source.is_file():
            raise ValueError(f"warm_start: {options.warm_start} is no folder of a search (no {JOURNAL}).")
        earlier = [record for record in fold(Journal(source).read()) if record.state != "RUNNING"]
    return Study(
        space,
        objective,
        Journal(folder / JOURNAL),
        wanted,
        seed=seed,
        sampler=options.sampler,
        points=options.points_to_evaluate,
        earlier=earlier,
        storage=options.storage,
        name=folder.name,
        hp_name=hp_name,
    )


def _run(
    trainer: Any,
    template: Template,
    study: Study,
    points: Sequence[Point],
    objective: Objective,
    folder: Path,
    sequential: bool,
    options: SearchOptions,
) -> None:
    report = Progress(study, objective, folder)
    report.begin()
    if not study.left:
        return
    from ray_st.runtime import cluster, tuning, tuning_feeds, tuning_trial

    with cluster.connected():
        need = tuning.Need.of(trainer.scaling_config, options.resources_per_trial)
        need.check()
        store = tuning.search_store(trainer.run_config, folder)
        first = template(0, points[0].values)
        data = tuning_feeds.share(tuning_trial.data_parts(first.shell, need.workers))
        kit = tuning_trial.TrialKit(template, objective, data, store, folder.name, need.scaling)
        settings = tuning.Settings(
            folder=folder,
            direction=objective.directions[0],
            scheduler=options.scheduler,
            grace_period=options.grace_period,
            reduction_factor=options.reduction_factor,
            need=need,
            concurrent=1 if sequential else options.max_concurrent_trials,
            max_failures=options.max_failures,
            time_budget_s=options.time_budget_s,
        )

        def ended(record: TrialRecord) -> None:
            report.ended(record)
            drop_checkpoints(study, kit.trial_store, options.keep_checkpoints)

        tuning.run_search(study, kit, settings, ended)


def _results(study: Study, folder: Path, sequential: bool, objectives: int) -> BestRun | list[BestRun]:
    summary = None if sequential else Summary(str(folder), tuple(study.records), study.study)
    best = [
        BestRun(
            str(record.number),
            record.objectives[0] if objectives == 1 else list(record.objectives),
            record.values,
            summary,
        )
        for record in study.best()
    ]
    if not best:
        reasons = sorted({record.reason for record in study.records if record.reason})
        raise SearchFailed(
            f"No trial of {len(study.records)} was completed; see {folder / TABLE}. {' | '.join(reasons)}"
        )
    return best[0] if objectives == 1 else best
