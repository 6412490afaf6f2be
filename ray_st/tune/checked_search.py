"""Checks a search before anything starts, and says what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import BaseTrial

from ray_st.model_trainer import ModelTrainer
from ray_st.study.constraints import parse_all
from ray_st.study.default_space import DEFAULT
from ray_st.study.halving import Rungs
from ray_st.study.journal import JOURNAL, Journal
from ray_st.study.objective import Compute, Objective, as_directions, as_scope, check_objective
from ray_st.study.population import Population
from ray_st.study.search_options import SearchOptions, as_options, trials_wanted
from ray_st.study.search_settings import check_comparable
from ray_st.study.space import GivenSpace, Space, as_space, describe, probe
from ray_st.study.trial_record import TrialRecord
from ray_st.tune.identity import objective_settings
from ray_st.tune.search_checks import (
    check_halving,
    check_points,
    check_template,
    check_trainer,
    check_unconfirmed,
    make_population,
)
from ray_st.tune.space_facts import default_space
from ray_st.tune.trial_factory import TrialFactory


@dataclass(frozen=True)
class CheckedSearch:
    """A search that has been checked, as far as possible before it starts.

    Args:
        template: What all trials share.
        objective: The objective.
        space: The space.
        distributions: What it holds, by name.
        values: A trial's hyperparameters, as an example.
        always_drawn: Names that every trial sets.
        trials: How many trials there will be.
        earlier: Finished trials of an earlier search.
        options: How it is run.
        seed: Seed of the suggestions.
        population: The rules of a population; None for independent trials.
        explained: Why the space is as it is, if it was chosen here.
    """

    template: TrialFactory
    objective: Objective
    space: Space
    distributions: dict[str, Any]
    values: dict[str, Any]
    always_drawn: frozenset[str]
    trials: int
    earlier: list[TrialRecord]
    options: SearchOptions
    seed: int
    population: Population | None
    explained: str = ""

    @property
    def maximize(self) -> bool:
        """Whether more is better, of the first objective."""
        return self.objective.maximize

    @property
    def waits_after(self) -> Callable[[int], bool] | None:
        """After which evaluations trials wait for others; None if they never do."""
        if self.population is not None:
            return self.population.rounds
        halving = self.options.scheduler == "halving"
        return Rungs(self.options.grace_period, self.options.reduction_factor) if halving else None


def check_search(
    trainer: ModelTrainer,
    hp_space: GivenSpace,
    compute_objective: Compute,
    n_trials: int,
    direction: str | Sequence[str],
    **kwargs: Any,
) -> CheckedSearch:
    """Checks a search without starting anything.

    The arguments are those of :func:`ray_st.tune.search.hyperparameter_search`.

    Raises:
        ValueError: If it cannot work.
    """
    directions = as_directions(direction)
    scope = as_scope(trainer.args.ray_scope, directions)
    options = as_options(kwargs, len(directions))
    trials = trials_wanted(n_trials, options.points_to_evaluate)
    check_trainer(trainer, options.data_init)
    _check_sendable(trainer)
    evaluates = trainer.evaluator is not None or trainer.eval_dataset is not None
    constraints = parse_all(options.constraints)
    check_objective(compute_objective, directions, trainer.metric_names(), evaluates, constraints)
    chosen = default_space(trainer, options.data_init is not None) if hp_space == DEFAULT else None
    space = as_space(chosen or hp_space, _suggest)
    points = probe(space)
    distributions = describe(points)
    check_points(options.points_to_evaluate, distributions)
    template = check_template(template_of(trainer, options), points)
    seed = trainer.args.seed if options.seed is None else options.seed
    maximize = directions[0] == "maximize"
    population = make_population(options, template, distributions, trials, maximize, seed)
    if options.scheduler == "halving":
        check_halving(template)
    if population is not None:
        check_unconfirmed(options.confirm)
    objective = Objective(compute_objective, directions, scope, constraints)
    return CheckedSearch(
        template,
        objective,
        space,
        distributions,
        points[0].values,
        frozenset(points[0].values).intersection(*(point.values for point in points)),
        trials,
        _earlier(options.warm_start, objective),
        options,
        seed,
        population,
        f"search space:\n{chosen}" if chosen else "",
    )


def _check_sendable(trainer: ModelTrainer) -> None:
    """Checks that a trainer's parts can be sent to trials; model and loss are made there."""
    from ray_st.runtime.train.sendable import check_sendable

    made = {"model": None, "loss": trainer.loss_init, "model_init": trainer.model_init}
    check_sendable({**trainer.spec().parts(), **made})


def _suggest(trial: BaseTrial, name: str, value: object) -> Any:
    if not type(value).__module__.startswith("ray.") and not isinstance(value, dict):
        return value
    from ray_st.runtime.tune.domains import suggest

    return suggest(trial, name, value)


def _earlier(warm_start: str | None, objective: Objective) -> list[TrialRecord]:
    """The finished trials of an earlier search, except those whose hyperparameters changed on the way."""
    if warm_start is None:
        return []
    source = Path(warm_start) / JOURNAL
    if not source.is_file():
        raise ValueError(f"warm_start: {warm_start} is no folder of a search (it has no {JOURNAL}).")
    check_comparable(source.parent, objective_settings(objective))
    return [record for record in Journal(source).records() if not (record.is_running or record.changes)]


def template_of(trainer: ModelTrainer, options: SearchOptions) -> TrialFactory:
    """What all trials share, before it is checked.

    Args:
        trainer: The driver's trainer, with ``model_init``.
        options: The search's.
    """
    described = trainer.spec()
    assert trainer.model_init is not None
    bare = {**described.options, "model": None, "loss": None}
    return TrialFactory(
        description=dataclasses.replace(described, options=bare),
        family=trainer.family,
        model_init=trainer.model_init,
        loss_init=trainer.loss_init,
        base=None,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        samplers=trainer.data.samplers,
        rungs=options.rungs,
        data_init=options.data_init,
    )
