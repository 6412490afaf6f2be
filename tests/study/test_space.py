from __future__ import annotations

from typing import Any

import optuna
import pytest

from ray_st import SentenceTransformerTrainingArguments
from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.space import as_space, default_hp_space, describe, draw, probe
from ray_st.study.trial_arguments import SpaceError, argument_names, check_names, with_values


def conditional(trial: Any) -> dict[str, Any]:
    found = {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True)}
    if trial.suggest_categorical("pooling", ["mean", "cls"]) == "cls":
        found["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
    return found


def test_probing_finds_conditional_names_and_is_repeatable() -> None:
    points = probe(conditional)
    assert set(describe(points)) == {"learning_rate", "pooling", "dropout"}
    assert points == probe(conditional)
    # Drawn but not returned: still a parameter, as model_init may read it.
    assert all(set(point.values) >= {"learning_rate", "pooling"} for point in points)


def test_the_default_space_is_that_of_transformers() -> None:
    assert as_space(None) is default_hp_space
    assert set(describe(probe(default_hp_space))) == {
        "learning_rate",
        "num_train_epochs",
        "seed",
        "per_device_train_batch_size",
    }


def test_a_returned_constant_is_set_too() -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"weight_decay": trial.suggest_float("weight_decay", 0, 1), "max_steps": 7}

    trial = optuna.trial.FixedTrial({"weight_decay": 0.5})
    point = draw(space, trial)
    assert point.values == {"weight_decay": 0.5, "max_steps": 7}
    assert point.params == {"weight_decay": 0.5}


@pytest.mark.parametrize("given", [3, {}, "learning_rate"])
def test_what_is_no_space_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="hp_space must be"):
        as_space(given)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (lambda trial: {}, "no parameters"),
        (lambda trial: [1], "must return a dict"),
        (lambda trial: {1: 2}, "must return"),
    ],
)
def test_an_empty_or_odd_space_is_refused(space: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        probe(space)


def test_a_drawn_trial_can_be_read_in_each_form() -> None:
    trial = DrawnTrial(4, {"pooling": "cls", "rate": 0.1, "left": 1})
    assert trial["pooling"] == trial.suggest_categorical("pooling", ["mean", "cls"]) == "cls"
    assert trial.suggest_float("rate", 0, 1, log=False) == trial.get("rate") == 0.1
    assert trial.number == 4
    assert trial.read == {"pooling", "rate"}
    assert trial.params == {"pooling": "cls", "rate": 0.1, "left": 1}
    assert trial.read == {"pooling", "rate", "left"}


def test_a_trial_draws_nothing_in_model_init() -> None:
    with pytest.raises(ValueError, match="did you mean 'pooling'"):
        DrawnTrial(0, {"pooling": "cls"}).suggest_int("poolin", 1, 2)


# ---- arguments ----


def made(**options: Any) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments("unused", report_to=[], use_cpu=True, **options)


def test_replaced_arguments_are_completed_anew() -> None:
    args = made(warmup_ratio=0.1)
    new = with_values(
        args, {"warmup_ratio": 0.3, "learning_rate": 1e-3, "pooling": "cls", "num_train_epochs": 2}
    )
    assert (new.get_warmup_steps(100), new.learning_rate, new.num_train_epochs) == (30, 1e-3, 2)
    assert (args.get_warmup_steps(100), args.learning_rate) == (10, 5e-5)


def test_a_whole_number_is_made_of_a_drawn_fraction() -> None:
    assert with_values(made(), {"seed": 12.7}).seed == 12  # transformers' Ray space draws seeds so


def test_a_value_that_arguments_refuse_is_an_error() -> None:
    with pytest.raises(SpaceError, match="warmup_ratio must lie"):
        with_values(made(), {"warmup_ratio": 3.0})


def test_unknown_names_are_refused_with_the_nearest() -> None:
    known = argument_names(made())
    check_names(["learning_rate", "pooling"], known, {"pooling"}, ["model_init"])
    with pytest.raises(SpaceError, match="did you mean 'learning_rate'"):
        check_names(["learning_rat"], known, (), ())
    with pytest.raises(SpaceError, match="model_init did not read it"):
        check_names(["poling"], known, {"pooling"}, ["model_init"])
    with pytest.raises(SpaceError, match="belongs to the search"):
        check_names(["output_dir"], known, (), ())
