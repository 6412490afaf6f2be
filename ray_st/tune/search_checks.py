"""What is checked before any trial starts: each name is used, each value accepted, the schedule possible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, json_to_distribution
from transformers import SchedulerType, set_seed
from transformers.trainer_utils import number_of_arguments

from ray_st.model_trainer import ModelTrainer
from ray_st.models.attention import of_packages
from ray_st.study.any_choices import as_plain, label
from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.mutation import Mutation, within
from ray_st.study.population import Population, Rounds
from ray_st.study.search_options import SearchOptions
from ray_st.study.space import Point
from ray_st.study.trial_arguments import SpaceError, argument_names, check_names
from ray_st.training.checkpoint.retuning import RETUNABLE
from ray_st.training.loss_factory import make_losses, takes_trial
from ray_st.training.strategies.step_module import losses_of
from ray_st.training_args import EvalOn
from ray_st.tune.trial_factory import TrialFactory, call_model_init
from ray_st.util.names import did_you_mean
from ray_st.util.value_checks import is_number

_OWN_RATES = ("reduce_lr_on_plateau", "greedy")


def check_trainer(trainer: ModelTrainer, data_init: Callable[..., Any] | None) -> None:
    """Checks that a trainer can be searched with.

    Args:
        trainer: The trainer.
        data_init: Makes a trial's training data, or None.

    Raises:
        ValueError: If it lacks something, or evaluates in the background.
    """
    if trainer.model_init is None:
        raise ValueError(
            "hyperparameter_search needs a trainer with model_init, a function that makes a new model for "
            "each trial, in place of model: "
            "SentenceTransformerTrainer(model_init=lambda trial: SentenceTransformer(...), ...)."
        )
    if trainer.args.eval_on == EvalOn.BACKGROUND:
        raise ValueError('A search evaluates where it trains: use eval_on="workers".')
    if trainer.train_dataset is None and data_init is None:
        raise ValueError("A search needs a train_dataset, or data_init=...; the trainer has none.")


def check_halving(template: TrialFactory) -> None:
    """Checks that a trial can wait at a rung and continue from its checkpoint.

    Raises:
        ValueError: Naming what to change.
    """
    args = template.given
    if args.save_only_model or args.deepspeed:
        given = "save_only_model=True" if args.save_only_model else "deepspeed"
        raise ValueError(
            'scheduler="halving": trials wait, and continue from checkpoints, which hold no optimizer with '
            f'{given}. Leave it out, or use scheduler="asha".'
        )


def check_points(points: Sequence[Mapping[str, Any]], distributions: Mapping[str, Any]) -> None:
    """Checks that given points only have names of the space, and values that can be drawn there.

    Args:
        points: Hyperparameters by name.
        distributions: What the space holds, by name.

    Raises:
        SpaceError: At the first other name, choice, or value that is no number.
    """
    for place, point in enumerate(points):
        for name, value in point.items():
            if name not in distributions:
                raise SpaceError(
                    f"points_to_evaluate[{place}]: {name!r} is not in the space; "
                    f"{did_you_mean(name, distributions)}"
                )
            kind = json_to_distribution(json.dumps(distributions[name]))
            plain = as_plain(name, value)
            if isinstance(kind, CategoricalDistribution):
                fits, wanted = label(plain) in kind.choices, f"one of {list(kind.choices)}"
            else:
                fits, wanted = is_number(plain), "a number"
            if not fits:
                raise SpaceError(f"points_to_evaluate[{place}]: {name!r} must be {wanted}, found {value!r}")


def check_template(template: TrialFactory, points: Sequence[Point]) -> TrialFactory:
    """Checks that all names are used and all values accepted; keeps the model if trials do not change it.

    Args:
        template: What all trials share.
        points: Points of the space that together hold all of its names.

    Raises:
        SpaceError: At the first unused name or rejected value.
    """
    args = template.given
    arguments = argument_names(args)
    for point in points:
        template.args(point.values)
    names = {name for point in points for name in point.values}
    free, readers = names - arguments, _readers(template)
    if not readers:
        check_names(sorted(names), arguments, (), readers)
    read_by_model, read_by_loss, read_by_data = (set[str]() for _ in range(3))
    model, attention = None, frozenset[str]()
    for point in _by_names(points, free):
        for_model, for_loss, for_data = (DrawnTrial(0, point.values) for _ in range(3))
        set_seed(args.seed)
        model = call_model_init(template.model_init, for_model)
        loss = make_losses(template.loss_init, model, template.family.default_loss, anew=True, trial=for_loss)
        attention |= of_packages([model, *losses_of(loss).values()])
        if template.data_init is not None:
            template.data_init(for_data)
        read_by_model |= for_model.read
        read_by_loss |= for_loss.read
        read_by_data |= for_data.read
        if free <= read_by_model | read_by_loss | read_by_data:
            break
    check_names(sorted(names), arguments, read_by_model | read_by_loss | read_by_data, readers)
    of_loss = frozenset(read_by_loss - read_by_model - read_by_data - arguments)
    template = dataclasses.replace(template, of_loss=of_loss, attention=attention)
    if read_by_model or "seed" in names or model is None:
        return template
    return dataclasses.replace(template, base=model.cpu())


def _readers(template: TrialFactory) -> list[str]:
    """What gets to see a trial's hyperparameters."""
    losses = template.loss_init
    parts = losses.values() if isinstance(losses, Mapping) else [losses]
    return [
        *(["model_init"] if number_of_arguments(template.model_init) else []),
        *(["the loss initialiser"] if any(takes_trial(part) for part in parts) else []),
        *(["data_init"] if template.data_init is not None else []),
    ]


def _by_names(points: Sequence[Point], free: Collection[str]) -> list[Point]:
    """The points, ordered so that the first few hold all free names: each one tried makes a model."""
    left, rest, first = set(free), list(points), []
    while left:
        best = max(rest, key=lambda point: len(left & set(point.values)))
        left -= set(best.values)
        rest.remove(best)
        first.append(best)
    return [*first, *rest]


# ---- populations ----


def make_population(
    options: SearchOptions,
    template: TrialFactory,
    distributions: Mapping[str, Any],
    trials: int,
    maximize: bool,
    seed: int,
) -> Population | None:
    """The population that a search's ``scheduler`` asks for; None if it asks for none.

    Args:
        options: The search's.
        template: What all trials share.
        distributions: What the space holds, by name.
        trials: How many trials there are.
        maximize: Whether more is better.
        seed: The search's seed.

    Raises:
        ValueError: If it cannot work.
    """
    population: Population | None = None
    if options.scheduler == "pbt":
        first = max(options.grace_period, options.perturbation_interval)
        changing = _changing(distributions, template.of_loss)
        population = Population(Rounds(first, options.perturbation_interval), changing, maximize, seed)
    elif options.scheduler is not None and not isinstance(options.scheduler, str):
        from ray_st.runtime.tune.pbt_options import population_of

        population = population_of(options.scheduler, maximize, seed)
    if population is None:
        return None
    if options.terminator not in (None, False):
        raise ValueError(
            "Population based training ends all its trials together: leave out terminator, or use another "
            "scheduler."
        )
    if not population.mutations:
        raise SpaceError(
            "Population based training: no parameter of the space "
            f"({', '.join(sorted(distributions))}) can change while a trial runs. These can: "
            f"{', '.join(RETUNABLE)}, and numbers that the loss initialiser reads and nothing else does."
        )
    _check_mutations(population.mutations, distributions, template.of_loss)
    _check_population(template, options.rungs, population, trials)
    return population


def check_unconfirmed(confirm: int) -> None:
    """Checks that the winner of a population is not to be trained again.

    Args:
        confirm: With how many seeds it would be.

    Raises:
        ValueError: If it is.
    """
    if confirm:
        raise ValueError(
            f"confirm={confirm}: the winner of a population is a schedule of hyperparameters, which changed "
            "while it trained, and cannot be trained again from its values. Use confirm=0, or another "
            'scheduler, such as "asha".'
        )


def _changing(distributions: Mapping[str, Any], of_loss: frozenset[str]) -> dict[str, Mutation]:
    """How those hyperparameters of a space change that can change while a trial runs."""
    kinds = {name: json_to_distribution(json.dumps(found)) for name, found in distributions.items()}
    return {
        name: within(kind)
        for name, kind in kinds.items()
        # A choice that the loss is made from may decide which other names there are.
        if name in RETUNABLE or (name in of_loss and not isinstance(kind, CategoricalDistribution))
    }


def _check_mutations(
    mutations: Collection[str], distributions: Mapping[str, Any], of_loss: frozenset[str]
) -> None:
    for name in mutations:
        if name not in distributions:
            raise SpaceError(
                f"hyperparam_mutations: {name!r} is not in the space; {did_you_mean(name, distributions)}"
            )
        if name not in RETUNABLE and name not in of_loss:
            raise SpaceError(
                f"hyperparam_mutations: {name!r} cannot change while a trial runs: it decides the data's "
                "order, the number of steps, or what the weights are. These can: "
                f"{', '.join(RETUNABLE)}, and what the loss initialiser reads and nothing else does. Leave "
                "it out: a copy takes it from the trial it copies."
            )


def _check_population(template: TrialFactory, rungs: int | None, population: Population, trials: int) -> None:
    """Checks that the run's arguments allow a population.

    Raises:
        ValueError: Naming what to change.
    """
    args, first = template.given, population.rounds.first
    if trials < 2:
        fault = f"compares trials: n_trials must be at least 2, found {trials}."
    elif (rungs is None and args.eval_strategy == "no") or (rungs is not None and rungs <= first):
        fault = (
            f"compares trials after evaluation {first} for the first time, and trials have {rungs or 1} "
            f"evaluation(s), the last at their end: set rungs to more than {first}."
        )
    elif args.save_only_model:
        fault = "copies optimizers too: use save_only_model=False."
    elif args.load_best_model_at_end:
        fault = "continues with the latest weights: use load_best_model_at_end=False."
    elif args.ray_scope not in (None, "last"):
        fault = "continues with the latest weights, and a copy's history is not its own: leave out ray_scope."
    elif args.deepspeed:
        fault = "continues from checkpoints, which hold no optimizer with deepspeed: use fsdp, or none."
    elif args.lr_scheduler_type in _OWN_RATES and "learning_rate" in population.mutations:
        given = SchedulerType(args.lr_scheduler_type).value
        fault = (
            f"changes learning_rate, which lr_scheduler_type={given!r} changes by itself: use a schedule of "
            "steps, such as linear or cosine."
        )
    else:
        return
    raise ValueError(f"Population based training {fault}")
