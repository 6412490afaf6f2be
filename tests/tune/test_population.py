"""The rules of a population: who takes over whom, with which values, and what no population can be made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ray_st.tune.arguments import SpaceError
from ray_st.tune.population import Population, Rounds, as_asked, within


def population(**options: Any) -> Population:
    given: dict[str, Any] = {"rounds": Rounds(1, 1), "mutations": {}, "maximize": True, "seed": 0}
    return Population(**{**given, **options})


def test_rounds() -> None:
    assert [n for n in range(12) if Rounds(3, 4)(n)] == [3, 7, 11]


@pytest.mark.parametrize("maximize", [True, False])
def test_the_worst_quarter_takes_over_the_best(maximize: bool) -> None:
    scores = {number: float(number if maximize else -number) for number in range(8)}
    partners = population(maximize=maximize).partners(scores, 1)
    assert set(partners) == {0, 1}
    assert set(partners.values()) <= {6, 7}
    assert partners == population(maximize=maximize).partners(dict(reversed(scores.items())), 1)
    every = [population(maximize=maximize).partners(scores, n)[0] for n in range(20)]
    assert set(every) == {6, 7}


def test_small_populations_and_equal_scores() -> None:
    assert population().partners({}, 1) == {}
    assert population().partners({3: 1.0}, 1) == {}
    assert population().partners({3: 1.0, 4: 2.0, 5: 1.5}, 1) == {3: 4}
    assert population(fraction=0.5).partners({1: 1.0, 2: 1.0, 3: 1.0}, 1) == {}
    assert population(fraction=0.0).partners({1: 1.0, 2: 2.0}, 1) == {}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (FloatDistribution(1e-6, 1e-2, log=True), 1e-4),
        (FloatDistribution(0.0, 0.3), 0.0),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.5),
        (IntDistribution(1, 50), 20),
        (IntDistribution(1, 64, log=True), 8),
        (IntDistribution(2, 50, step=4), 22),
        (CategoricalDistribution(["a", "b"]), "a"),
    ],
)
def test_values_change_inside_the_space(kind: Any, value: Any) -> None:
    random, change = np.random.default_rng(0), within(kind)
    seen = [change(value, random) for _ in range(200)]
    assert all(kind._contains(kind.to_internal_repr(one)) for one in seen)
    assert {type(one) for one in seen} == {type(value)}
    assert len(set(seen)) > 1
    if isinstance(kind, FloatDistribution) and kind.log:
        assert {1.2e-4, 0.8e-4} <= {round(one, 12) for one in seen}


def test_values_change_as_ray_tune_means_it() -> None:
    random = np.random.default_rng(0)
    steps = as_asked([1, 10, 100], 0.0, (2.0, 0.5))
    assert {steps(10, random) for _ in range(20)} == {1, 100}
    assert {steps(1, random) for _ in range(20)} == {1, 10}
    assert {steps(7, random) for _ in range(40)} == {1, 10, 100}
    moved = as_asked(lambda seed: np.float64(0.5), 0.5, (2.0, 0.5))
    seen = {moved(4.0, random) for _ in range(40)}
    assert seen == {8.0, 2.0, 0.5}
    assert all(type(value) is float for value in seen)


def test_a_copy_has_the_fixed_values_of_the_trial_it_copies() -> None:
    rules = population(mutations={"rate": within(FloatDistribution(0.0, 1.0)), "absent": lambda v, r: v})
    good = {"rate": 0.5, "batch": 16}
    first = rules.explored(good, 3, 2)
    assert (first["batch"], set(first)) == (16, {"rate", "batch"})
    assert first == rules.explored(good, 3, 2)
    assert len({rules.explored(good, number, 2)["rate"] for number in range(9)}) > 2
    assert good == {"rate": 0.5, "batch": 16}


def test_the_users_function_has_the_last_word_on_what_can_change() -> None:
    change = {"rate": within(FloatDistribution(0.0, 1.0))}
    assert population(mutations=change, explore=lambda v: {**v, "rate": 0.25}).explored(
        {"rate": 1.0, "batch": 4}, 0, 1
    ) == {"rate": 0.25, "batch": 4}
    with pytest.raises(SpaceError, match="batch"):
        population(mutations=change, explore=lambda v: {**v, "batch": 8}).explored({"batch": 4}, 0, 1)
    with pytest.raises(SpaceError, match="more"):
        population(mutations=change, explore=lambda v: {**v, "more": 8}).explored({"batch": 4}, 0, 1)
