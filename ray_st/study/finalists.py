"""The finalists of a search, and the fresh seeds they are trained with again, as points of a second study."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FixedTrial

from ray_st.study.any_choices import as_plain
from ray_st.study.journal import Journal, RecordError
from ray_st.study.objective import Objective
from ray_st.study.space import Space, draw
from ray_st.study.study import NUMBER, Study
from ray_st.study.trial_arguments import SpaceError
from ray_st.study.trial_record import TrialRecord

SEED = "seed"
"""The hyperparameter, a training argument, in which the trainings of a finalist differ."""

_STREAM = 0x5EED
"""Separates the fresh seeds from other random numbers that derive from a search's seed."""


@dataclass(frozen=True)
class Repetition:
    """A finalist and a fresh seed.

    Args:
        finalist: The trial of the search.
        seed: The seed it is trained with again.
    """

    finalist: TrialRecord
    seed: int


def same_but_seed(values: Mapping[str, Any]) -> str:
    """Hyperparameters as text, without the seed: equal for trials that a fresh seed makes equal.

    Args:
        values: Hyperparameters by name.
    """
    return json.dumps({name: value for name, value in values.items() if name != SEED}, sort_keys=True)


def finalists_of(best: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """The best trials whose hyperparameters differ in more than the seed.

    Args:
        best: The complete trials, the best first.
        count: How many finalists there are at most.
    """
    found: dict[str, TrialRecord] = {}
    for record in best:
        found.setdefault(same_but_seed(record.values), record)
    return list(found.values())[:count]


def fresh_seeds(seed: int, count: int, used: Collection[int]) -> list[int]:
    """Seeds for training again: more of them begin with the same ones.

    Args:
        seed: The search's seed.
        count: How many.
        used: Seeds that the search itself trained with.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
    found: list[int] = []
    while len(found) < count:
        drawn = int(generator.integers(1, 2**31))  # what every library accepts
        if drawn not in used and drawn not in found:
            found.append(drawn)
    return found


def plan_repetitions(
    best: Sequence[TrialRecord],
    count: int,
    seeds: Sequence[int],
    begun: Sequence[TrialRecord],
) -> list[Repetition]:
    """What is trained again: first what was begun before, in its order, then the rest, seed by seed.

    Args:
        best: The complete trials of the search, the best first.
        count: How many of them are finalists at most.
        seeds: The seeds, the same for all finalists.
        begun: The records of the trainings that were begun, by number.

    Raises:
        RecordError: If one of these is of no trial of the search.
    """
    trials = {same_but_seed(record.values): record for record in finalists_of(best, len(best))}
    before = []
    for record in begun:
        key = same_but_seed(record.values)
        if key not in trials:
            raise RecordError(
                f"Training {record.number} of the finalists has the hyperparameters of no complete trial of "
                f"the search: {key}. Delete the folder of its records, confirm, to begin them anew."
            )
        before.append(Repetition(trials[key], record.values[SEED]))
    known = {(same_but_seed(one.finalist.values), one.seed) for one in before}
    finalists = finalists_of(best, count)
    return [
        *before,
        *(
            Repetition(finalist, seed)
            for seed in seeds
            for finalist in finalists
            if (same_but_seed(finalist.values), seed) not in known
        ),
    ]


@dataclass(frozen=True)
class FinalistSpace:
    """A search's space, where each trial has the hyperparameters of a finalist and a fresh seed.

    Args:
        space: The search's space.
        plan: The finalist and the seed of each trial, by number.
    """

    space: Space
    plan: Sequence[Repetition]

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Draws a finalist's hyperparameters, which the study has enqueued.

        Raises:
            SpaceError: If the space draws others.
        """
        wanted = self.plan[trial.user_attrs[NUMBER]]
        returned = dict(self.space(trial) or {})
        drawn = {**trial.params, **{name: as_plain(name, value) for name, value in returned.items()}}
        if same_but_seed(drawn) != same_but_seed(wanted.finalist.values):
            raise SpaceError(
                f"hp_space: trial {wanted.finalist.number} had {wanted.finalist.values}; with the same "
                f"parameters the space now gives {drawn}, so the trial cannot be trained again. A space must "
                "depend on nothing but its trial: no random numbers of its own, no state, no clock."
            )
        return {**returned, SEED: wanted.seed}

    def check(self) -> None:
        """Checks that each trial gets its finalist's hyperparameters.

        Raises:
            SpaceError: At the first that would not.
        """
        for number, one in enumerate(self.plan):
            trial = FixedTrial(dict(one.finalist.params))
            trial.set_user_attr(NUMBER, number)
            try:
                draw(self, trial)
            except ValueError as error:
                if isinstance(error, SpaceError):
                    raise
                raise SpaceError(
                    f"hp_space: trial {one.finalist.number} cannot be drawn again from its parameters "
                    f"{one.finalist.params}: {error} A space must depend on nothing but its trial."
                ) from error


def repeating_study(
    space: Space, objective: Objective, journal: Journal, plan: Sequence[Repetition]
) -> Study:
    """A study whose trials are the finalists, trained again.

    Args:
        space: The search's space.
        objective: The search's objective.
        journal: Where the events are written; trainings in it are not made again.
        plan: What is trained again, by number.

    Raises:
        SpaceError: If a finalist cannot be drawn again.
    """
    again = FinalistSpace(space, plan)
    again.check()
    return Study(
        again,
        objective,
        journal,
        len(plan),
        sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed),  # all is enqueued
        points=[one.finalist.params for one in plan],
        hp_name=lambda trial: _name(plan[trial.user_attrs[NUMBER]]),
    )


def _name(one: Repetition) -> str:
    return f"trial-{one.finalist.number}-seed-{one.seed}"
