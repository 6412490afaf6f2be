"""The rules of a population: who takes over whom, with which values, and what no population can be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.study.mutation import as_in_ray_tune, within
from ray_st.study.population import Population, Rounds
from ray_st.study.trial_arguments import SpaceError
from ray_st.training.checkpoint.store import MANIFEST
from ray_st.training.data.local_source import local_context
from ray_st.tune.checked_search import CheckedSearch, check_search


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
    steps = as_in_ray_tune([1, 10, 100], 0.0, (2.0, 0.5))
    assert {steps(10, random) for _ in range(20)} == {1, 100}
    assert {steps(1, random) for _ in range(20)} == {1, 10}
    assert {steps(7, random) for _ in range(40)} == {1, 10, 100}
    moved = as_in_ray_tune(lambda seed: np.float64(0.5), 0.5, (2.0, 0.5))
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


# ---- what a search asks for ----

DATA = Dataset.from_dict({"a": ["good weather", "bad man"] * 2, "b": ["the sun", "a man"] * 2})


def search(
    folder: Path, model_folder: Path, space: Any = None, n_trials: int = 4, **options: Any
) -> CheckedSearch:
    arguments = options.pop("arguments", {})
    one = SentenceTransformerTrainer(
        args=SentenceTransformerTrainingArguments(
            str(folder / "out"), report_to=[], use_cpu=True, **arguments
        ),
        train_dataset=DATA,
        eval_dataset=DATA,
        model_init=lambda: SentenceTransformer(str(model_folder), device="cpu"),
        loss=options.pop("loss", lambda model: losses.MultipleNegativesRankingLoss(model)),
    )
    given = {"scheduler": "pbt", "rungs": 4, **options}
    return check_search(one, space or rate, "eval_loss", n_trials, "minimize", **given)


def checked(*args: Any, **options: Any) -> Any:
    return search(*args, **options).population


def rate(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16]),
    }


def of_loss(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("kind", ["a", "b"])
    trial.suggest_float("scale", 5.0, 40.0)
    return rate(trial)


def scaled(model: Any, trial: Any = None) -> Any:
    scale = 20.0 if trial is None or trial["kind"] == "?" else trial["scale"]
    return losses.MultipleNegativesRankingLoss(model, scale=scale)


def test_what_may_change_comes_from_the_space(tmp_path: Path, tiny_folder: Path) -> None:
    found = checked(tmp_path, tiny_folder, grace_period=2)
    assert set(found.mutations) == {"learning_rate"}
    assert (found.rounds, found.maximize, found.seed) == (Rounds(2, 1), False, 42)
    found = checked(tmp_path, tiny_folder, of_loss, loss=scaled, perturbation_interval=2)
    assert set(found.mutations) == {"learning_rate", "scale"}
    assert found.rounds == Rounds(2, 2)
    assert checked(tmp_path, tiny_folder, scheduler="asha") is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"space": lambda t: {"num_train_epochs": t.suggest_int("num_train_epochs", 1, 5)}},
            r"no parameter of the space \(num_train_epochs\) can change.*learning_rate, weight_decay",
        ),
        ({"n_trials": 1}, "at least 2, found 1"),
        ({"rungs": None}, "set rungs to more than 1"),
        ({"rungs": 3, "perturbation_interval": 3}, "set rungs to more than 3"),
        ({"arguments": {"save_only_model": True}}, "save_only_model=False"),
        (
            {"arguments": {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}},
            "'reduce_lr_on_plateau' changes",
        ),
        (
            {
                "arguments": {
                    "load_best_model_at_end": True,
                    "eval_strategy": "steps",
                    "save_strategy": "steps",
                    "eval_steps": 0.25,
                    "save_steps": 0.25,
                }
            },
            "load_best_model_at_end=False",
        ),
        ({"arguments": {"ray_scope": "all"}}, "leave out ray_scope"),
        ({"perturbation_interval": 0}, "perturbation_interval: expected"),
    ],
)
def test_what_no_population_can_be_made_of(
    options: dict[str, Any], said: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        checked(tmp_path, tiny_folder, **options)


def asked(**options: Any) -> Any:
    from ray.tune.schedulers import PopulationBasedTraining

    return PopulationBasedTraining(
        **{
            "time_attr": "evaluation",
            "perturbation_interval": 2,
            "hyperparam_mutations": {"learning_rate": [1e-4, 1e-3]},
            **options,
        }
    )


def test_a_scheduler_of_ray_tune_says_what_changes(tmp_path: Path, tiny_folder: Path) -> None:
    from ray import tune

    given = asked(hyperparam_mutations={"learning_rate": tune.loguniform(1e-5, 1e-4)}, quantile_fraction=0.5)
    found = checked(tmp_path, tiny_folder, scheduler=given)
    assert (found.rounds, found.fraction) == (Rounds(2, 2), 0.5)
    values = [found.explored({"learning_rate": 1.0, "seed": 3}, number, 2) for number in range(40)]
    rates = {one["learning_rate"] for one in values}
    assert {1.2, 0.8} < rates
    assert all(1e-5 <= one <= 1e-4 for one in rates - {1.2, 0.8})
    assert all(one["seed"] == 3 for one in values)
    assert values[0] == found.explored({"learning_rate": 1.0, "seed": 3}, 0, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time_attr": "time_total_s"}, "time_attr='evaluation'"),
        ({"perturbation_interval": 1.5}, "whole numbers"),
        ({"metric": "eval_loss"}, "leave both out"),
        ({"mode": "max"}, "leave both out"),
        ({"hyperparam_mutations": {"learning_rat": [1]}}, "did you mean 'learning_rate'"),
        (
            {"hyperparam_mutations": {"per_device_train_batch_size": [8, 16]}},
            "'per_device_train_batch_size' cannot change while a trial runs",
        ),
        ({"hyperparam_mutations": {"learning_rate": {"a": [1]}}}, "is a dict"),
    ],
)
def test_what_a_scheduler_of_ray_tune_cannot_ask_for(
    options: dict[str, Any], said: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        checked(tmp_path, tiny_folder, scheduler=asked(**options))


def test_all_arguments_of_a_scheduler_of_ray_tune_can_be_read() -> None:
    from ray_st.runtime.tune.pbt_options import arguments_of

    options = {"burn_in_period": 2, "quantile_fraction": 0.5, "custom_explore_fn": dict}
    found = arguments_of(asked(**options))
    assert {name: found[name] for name in options} == options
    assert (found["perturbation_interval"], found["resample_probability"]) == (2, 0.25)


def test_other_population_schedulers_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    from ray.tune.schedulers import PopulationBasedTraining

    class Own(PopulationBasedTraining):
        pass

    given = Own(time_attr="evaluation", hyperparam_mutations={"learning_rate": [1]})
    with pytest.raises(ValueError, match="Own has rules of its own"):
        checked(tmp_path, tiny_folder, scheduler=given)


# ---- a copy ----


def train(template: Any, rate: float, folder: Path, resume: Path | None = None) -> tuple[Any, list[Any]]:
    """Trains a trial here; what it was when it told of evaluations: the step, and whether it had its checkpoint."""
    one = template(0, {"learning_rate": rate})
    parts = {**one.data.train_specs(1), **one.data.eval_specs(1)}
    running = one.description.rebuild(local_context(parts, folder))
    told = []

    def tell(trainer: Any, metrics: dict[str, float]) -> None:
        step = trainer.state.global_step
        if trainer.checkpointer.writing == step:  # as a search waits before it reports
            trainer.save_now()
        told.append((step, (folder / f"checkpoint-{step}" / MANIFEST).exists(), trainer.state.best_metric))

    tell.late = True  # type: ignore[attr-defined]
    running.on_evaluated = tell
    running.train(resume_from_checkpoint=str(resume) if resume else None)
    return running, told


def test_a_copy_trains_with_its_own_rate_from_the_others_checkpoint(
    tmp_path: Path, tiny_folder: Path
) -> None:
    arguments = {
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 4,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 9,
        "metric_for_best_model": "eval_loss",
    }
    template = search(tmp_path, tiny_folder, arguments=arguments).template
    good, told = train(template, 1e-3, tmp_path / "good")
    assert [(step, saved) for step, saved, _ in told] == [(2, False), (4, True), (6, False), (8, True)]
    assert all(best is not None for _, _, best in told)
    copy, _ = train(template, 1e-4, tmp_path / "copy", tmp_path / "good" / "checkpoint-4")
    alone, _ = train(template, 1e-4, tmp_path / "alone")

    def rates(trainer: Any) -> list[float]:
        return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]

    assert rates(copy) == pytest.approx([*rates(good)[:4], *rates(alone)[4:]])
    assert rates(good)[4:] != pytest.approx(rates(alone)[4:])
