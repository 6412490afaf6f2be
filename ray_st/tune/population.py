"""Population based training as plain rules: when trials are compared, which take over which, and with what parameters.

The method is that of Jaderberg et al., 2017 (arXiv:1711.09846), with truncation selection; defaults are those of Ray Tune.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, json_to_distribution

from ray_st.study.any_choices import as_plain
from ray_st.study.mutation import Mutation, Random, as_asked, within
from ray_st.study.trial_arguments import SpaceError
from ray_st.training.checkpoint.retuning import RETUNABLE
from ray_st.tune.trial_factory import TrialFactory
from ray_st.util.names import did_you_mean

FRACTION = 0.25
"""How many of a population are copied, and how many go on as copies."""

_OWN_RATES = ("reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True)
class Rounds:
    """After which evaluations a population is compared.

    Args:
        first: The first of them.
        interval: Evaluations from one to the next.
    """

    first: int
    interval: int

    def __call__(self, evaluation: int) -> bool:
        """Whether trials are compared after an evaluation of this number."""
        return evaluation >= self.first and (evaluation - self.first) % self.interval == 0


@dataclass(frozen=True)
class Population:
    """The rules of a population.

    Args:
        rounds: When trials are compared.
        mutations: By parameter, how it changes.
        maximize: Whether high objectives are good.
        seed: What chance depends on, besides the trial and the round.
        fraction: How many are copied, and how many go on as copies.
        explore: Has the last word on a copy's values; None for none.
    """

    rounds: Rounds
    mutations: Mapping[str, Mutation]
    maximize: bool
    seed: int
    fraction: float = FRACTION
    explore: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def describe(self) -> dict[str, Any]:
        """What stays the same when a search goes on, as plain values."""
        rounds = {"first": self.rounds.first, "interval": self.rounds.interval}
        return {**rounds, "fraction": self.fraction, "changing": sorted(self.mutations)}

    def partners(self, scores: Mapping[int, float], evaluation: int) -> dict[int, int]:
        """Which trials go on as copies, and of which; the same each time.

        Args:
            scores: The objective of each trial that was compared, by number.
            evaluation: After which evaluation.
        """
        sign = 1 if self.maximize else -1
        ranked = sorted(scores, key=lambda number: (sign * scores[number], -number))
        count = min(math.ceil(len(ranked) * self.fraction), len(ranked) // 2)
        worst, best = ranked[:count], ranked[len(ranked) - count :]
        chosen = {number: best[int(self._random(number, evaluation).integers(count))] for number in worst}
        return {number: other for number, other in chosen.items() if scores[number] != scores[other]}

    def explored(self, values: Mapping[str, Any], number: int, evaluation: int) -> dict[str, Any]:
        """The values with which a trial goes on as a copy.

        Args:
            values: Those of the trial that it copies.
            number: The trial.
            evaluation: After which evaluation.

        Raises:
            SpaceError: If the user's function changes what cannot change.
        """
        random = self._random(number, evaluation)
        random.integers(1)  # the partner's
        found = {
            name: as_plain(name, self.mutations[name](value, random)) if name in self.mutations else value
            for name, value in values.items()
        }
        if self.explore is None:
            return found
        last = {name: as_plain(name, value) for name, value in self.explore(dict(found)).items()}
        fixed = [name for name in {**found, **last} if last.get(name) != found.get(name)]
        odd = sorted(set(fixed) - set(self.mutations))
        if odd or set(last) != set(found):
            raise SpaceError(
                f"custom_explore_fn changed {odd or sorted(set(last) ^ set(found))}; it may change the values of "
                f"{sorted(self.mutations)} only."
            )
        return last

    def _random(self, number: int, evaluation: int) -> Random:
        return np.random.default_rng([self.seed, evaluation, number])


# ---- proofs ----


def make_population(
    options: Any,
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
        maximize: Whether high objectives are good.
        seed: The search's seed.

    Raises:
        ValueError: If it cannot work.
    """
    asked = _asked(options.scheduler, maximize)
    if options.scheduler == "pbt":
        rounds = Rounds(
            max(options.grace_period, options.perturbation_interval), options.perturbation_interval
        )
        population = Population(rounds, _inside(distributions, template.of_loss), maximize, seed)
    elif asked is not None:
        _check_asked(asked.mutations, distributions, template.of_loss)
        mutations = {
            name: as_asked(given, asked.resampled, asked.factors) for name, given in asked.mutations.items()
        }
        rounds = Rounds(asked.first, asked.interval)
        population = Population(rounds, mutations, maximize, seed, asked.fraction, asked.explore)
    else:
        return None
    if not population.mutations:
        raise SpaceError(
            f"Population based training: no parameter of the space ({', '.join(sorted(distributions))}) can change while a "
            f"trial runs. These can: {', '.join(RETUNABLE)}, and numbers that the loss initialiser reads and nothing else does."
        )
    _check_run(template, options.rungs, population, trials)
    return population


def _asked(scheduler: Any, maximize: bool) -> Any:
    """What a user's scheduler of Ray Tune asks for; None if it is none for populations."""
    if not any(kind.__module__.startswith("ray.") for kind in type(scheduler).__mro__):
        return None
    from ray_st.runtime.tune.pbt_options import asked_by

    return asked_by(scheduler, "max" if maximize else "min")


def _inside(distributions: Mapping[str, Any], of_loss: frozenset[str]) -> dict[str, Mutation]:
    """The changes of those parameters of a space that can change while a trial runs."""
    kinds = {name: json_to_distribution(json.dumps(found)) for name, found in distributions.items()}
    return {
        name: within(kind)
        for name, kind in kinds.items()
        # Other parameters may hang on a choice that a loss is made from.
        if name in RETUNABLE or (name in of_loss and not isinstance(kind, CategoricalDistribution))
    }


def _check_asked(
    mutations: Mapping[str, Any], distributions: Mapping[str, Any], of_loss: frozenset[str]
) -> None:
    for name in mutations:
        if name not in distributions:
            raise SpaceError(
                f"hyperparam_mutations: {name!r} is not in the space; {did_you_mean(name, distributions)}"
            )
        if name not in RETUNABLE and name not in of_loss:
            raise SpaceError(
                f"hyperparam_mutations: {name!r} cannot change while a trial runs: it decides on the data's order, the number of "
                f"steps, or what the weights are. These can: {', '.join(RETUNABLE)}, and what the loss initialiser reads and "
                "nothing else does. Leave it out: a copy takes it from the trial that it copies."
            )


def _check_run(template: TrialFactory, rungs: int | None, population: Population, trials: int) -> None:
    """Refuses what no population can be made of.

    Raises:
        ValueError: Naming what to change.
    """
    args, first = template.description.options["args"], population.rounds.first
    where = "Population based training"
    if trials < 2:
        raise ValueError(f"{where} compares trials: n_trials must be at least 2, found {trials}.")
    if (rungs is None and args.eval_strategy == "no") or (rungs is not None and rungs <= first):
        raise ValueError(
            f"{where} compares trials after evaluation {first} for the first time, and trials have "
            f"{rungs or 1} evaluation(s), the last at their end: set rungs to more than {first}."
        )
    if args.save_only_model:
        raise ValueError(f"{where} copies optimizers too: use save_only_model=False.")
    if args.load_best_model_at_end:
        raise ValueError(f"{where} goes on with the latest weights: use load_best_model_at_end=False.")
    if args.ray_scope not in (None, "last"):
        raise ValueError(
            f"{where} goes on with the latest weights, and what a copy was before is not its own: leave out ray_scope."
        )
    if args.deepspeed:
        raise ValueError(
            f"{where} goes on from checkpoints, which hold no optimizer of deepspeed's: use fsdp, or none."
        )
    if args.lr_scheduler_type in _OWN_RATES and "learning_rate" in population.mutations:
        raise ValueError(
            f"{where} changes learning_rate, which lr_scheduler_type={str(args.lr_scheduler_type.value)!r} changes by itself: use "
            "a schedule of steps, such as linear or cosine."
        )
