"""Population based training as pure rules: when trials are compared, which copy which, with what values.

The method is that of Jaderberg et al., 2017 (arXiv:1711.09846), with truncation selection. Defaults are Ray
Tune's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_st.study.any_choices import as_plain
from ray_st.study.mutation import Mutation, Random
from ray_st.study.trial_arguments import SpaceError

FRACTION = 0.25
"""Share of a population that is copied, and share that continues as copies."""


@dataclass(frozen=True)
class Rounds:
    """The evaluations after which the trials of a population are compared.

    Args:
        first: The first of them.
        interval: Evaluations from one to the next.
    """

    first: int
    interval: int

    def __call__(self, evaluation: int) -> bool:
        """Whether trials are compared after this evaluation."""
        return evaluation >= self.first and (evaluation - self.first) % self.interval == 0


@dataclass(frozen=True)
class Population:
    """The rules of a population.

    Args:
        rounds: When trials are compared.
        mutations: How each hyperparameter changes, by name.
        maximize: Whether more is better.
        seed: Seed of the random choices, together with the trial and the round.
        fraction: Share that is copied, and share that continues as copies.
        explore: The user's function that may change a copy's hyperparameters last; None for none.
    """

    rounds: Rounds
    mutations: Mapping[str, Mutation]
    maximize: bool
    seed: int
    fraction: float = FRACTION
    explore: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def describe(self) -> dict[str, Any]:
        """What must stay the same for the search to continue, as plain values."""
        rounds = {"first": self.rounds.first, "interval": self.rounds.interval}
        return {**rounds, "fraction": self.fraction, "changing": sorted(self.mutations)}

    def partners(self, scores: Mapping[int, float], evaluation: int) -> dict[int, int]:
        """Which trials become copies, and of which; deterministic.

        Args:
            scores: The objective of each trial that is compared, by number.
            evaluation: After which evaluation.
        """
        sign = 1 if self.maximize else -1
        ranked = sorted(scores, key=lambda number: (sign * scores[number], -number))
        count = min(math.ceil(len(ranked) * self.fraction), len(ranked) // 2)
        worst, best = ranked[:count], ranked[len(ranked) - count :]
        chosen = {number: best[int(self._random(number, evaluation).integers(count))] for number in worst}
        return {number: other for number, other in chosen.items() if scores[number] != scores[other]}

    def explored(self, values: Mapping[str, Any], number: int, evaluation: int) -> dict[str, Any]:
        """The hyperparameters of a trial that becomes a copy.

        Args:
            values: Those of the trial it copies.
            number: The trial.
            evaluation: After which evaluation.

        Raises:
            SpaceError: If the user's function changes what cannot change.
        """
        random = self._random(number, evaluation)
        random.integers(1)  # the draw of the partner
        found = {
            name: as_plain(name, self.mutations[name](value, random)) if name in self.mutations else value
            for name, value in values.items()
        }
        if self.explore is None:
            return found
        last = {name: as_plain(name, value) for name, value in self.explore(dict(found)).items()}
        differing = {name for name in {**found, **last} if last.get(name) != found.get(name)}
        odd = sorted(differing - set(self.mutations)) or sorted(set(last) ^ set(found))
        if odd:
            raise SpaceError(
                f"custom_explore_fn changed {odd}; it may change the values of {sorted(self.mutations)} only."
            )
        return last

    def _random(self, number: int, evaluation: int) -> Random:
        return np.random.default_rng([self.seed, evaluation, number])
