from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from datasets import Dataset
from transformers import TrainerCallback

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.runtime.tune.trial_loop import Reports, evaluate_end
from ray_st.study.objective import ObjectiveError, check_objective
from ray_st.study.search_options import as_backend, as_options, trials_wanted
from ray_st.study.space import as_space, probe
from ray_st.study.trial_arguments import SpaceError
from ray_st.training.data.local_source import local_context
from ray_st.tune.checked_search import check_search, template_of
from ray_st.tune.results import SearchFailed
from ray_st.tune.search_checks import check_template
from ray_st.tune.trial_factory import TrialFactory

ROWS = {"a": ["good weather", "bad man", "sunny", "pasta"], "b": ["the sun", "a man", "weather", "eats"]}


def trainer(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    data = Dataset.from_dict({**ROWS, "score": [1.0, 0.0, 0.7, 0.2]})
    given = {
        "model_init": lambda: SentenceTransformer(str(model_folder), device="cpu"),
        "loss": lambda model: losses.CoSENTLoss(model),
        "evaluator": EmbeddingSimilarityEvaluator(ROWS["a"], ROWS["b"], [1.0, 0.0, 0.7, 0.2], name="dev"),
        **options,
    }
    args = SentenceTransformerTrainingArguments(str(folder / "out"), report_to=[], use_cpu=True)
    return SentenceTransformerTrainer(args=args, train_dataset=data, **given)


def rate(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)}


def checked(one: Any, space: Any, **options: Any) -> TrialFactory:
    return check_template(template_of(one, as_options(options, 1)), probe(as_space(space)))


def test_a_trial_is_the_run_with_other_arguments(tmp_path: Path, tiny_folder: Path) -> None:
    one = trainer(tmp_path, tiny_folder)
    template = checked(one, rate, rungs=4)
    assert template.base is not None  # nothing of the trial went into the model: it is made once
    made = template(3, {"learning_rate": 0.5}, "three")
    args = made.description.options["args"]
    assert (args.learning_rate, args.run_name, args.eval_steps) == (0.5, "three", 0.25)
    assert one.args.learning_rate == 5e-5
    assert made.data.train_specs(1)["train"].datasets[""].batch_size == 8
    assert made.description.options["model"] is not template.base


def test_model_and_loss_may_read_the_trial(tmp_path: Path, tiny_folder: Path) -> None:
    def model_init(trial: Any) -> SentenceTransformer:
        model = SentenceTransformer(str(tiny_folder), device="cpu")
        if trial is not None and trial["short"]:
            model.max_seq_length = 4
        return model

    def loss_init(model: Any, trial: Any) -> Any:
        return losses.CoSENTLoss(model, scale=trial["scale"] if trial is not None else 2.0)

    def space(trial: Any) -> None:
        trial.suggest_categorical("short", [True, False])
        trial.suggest_float("scale", 1.0, 30.0)

    one = trainer(tmp_path, tiny_folder, model_init=model_init, loss=loss_init)
    assert one.loss.scale == 2
    template = checked(one, space)
    assert template.base is None
    options = template(0, {"short": True, "scale": 7.0}).description.options
    assert (options["model"].max_seq_length, options["loss"].scale) == (4, 7.0)


def test_the_last_evaluation_reports_what_those_before_it_did(tmp_path: Path, tiny_folder: Path) -> None:
    data = Dataset.from_dict({**ROWS, "score": [1.0, 0.0, 0.7, 0.2]})
    one = trainer(tmp_path, tiny_folder, eval_dataset={"one": data, "two": data})
    one.args.save_strategy = "no"
    made = checked(one, rate, rungs=3)(0, {"learning_rate": 1e-3})
    parts = {**made.data.train_specs(1), **made.data.eval_specs(1)}
    running: Any = made.description.rebuild(local_context(parts, tmp_path / "run"))
    told: list[dict[str, Any]] = []
    Reports(told.append).attach(running)
    running.train()
    assert [report["evaluation"] for report in told] == [1, 2, 3]
    running.on_evaluated.step = -1  # as where the last step was not evaluated
    evaluate_end(running)
    assert set(told[-1]["metrics"]) == set(told[0]["metrics"])
    assert {"eval_dev_spearman_cosine", "eval_one_loss", "eval_two_loss"} <= set(told[-1]["metrics"])
    assert not running.is_in_train
    check_objective("eval_dev_spearman_cosine", ["maximize"], one.metric_names(), True)
    with pytest.raises(ObjectiveError, match="eval_one_dev_spearman_cosine"):
        check_objective("eval_one_dev_spearman_cosine", ["maximize"], one.metric_names(), True)


def test_a_search_of_seeds_makes_each_model_anew(tmp_path: Path, tiny_folder: Path) -> None:
    template = checked(
        trainer(tmp_path, tiny_folder), lambda trial: {"seed": trial.suggest_int("seed", 1, 9)}
    )
    assert template.base is None


# ---- bad input ----


def bad(
    folder: Path, model_folder: Path, said: str, error: type[Exception] = ValueError, **options: Any
) -> None:
    names = ("model_init", "loss", "evaluator", "model")
    one = trainer(folder, model_folder, **{name: options.pop(name) for name in names if name in options})
    given = {
        "hp_space": rate,
        "compute_objective": "eval_dev_spearman_cosine",
        "direction": "maximize",
        **options,
    }
    with pytest.raises(error, match=said):
        one.hyperparameter_search(**given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": None, "evaluator": None}, "evaluator; the trainer has neither"),
        ({"compute_objective": "eval_test_spearman"}, "reported by no evaluation"),
        ({"compute_objective": lambda metrics: metrics["eval_sts_spearman"]}, "reported by no evaluation"),
        ({"direction": "up"}, "direction must be"),
        ({"backend": "sigopt"}, "backend: expected one of"),
        ({"n_trials": 0}, "n_trials"),
        ({"nam": "a"}, "did you mean 'name'"),
        ({"scheduler": "ahsa"}, "did you mean 'asha'"),
        ({"direction": ["maximize", "minimize"], "scheduler": "median"}, 'has 2: use scheduler="asha"'),
        (
            {"hp_space": lambda t: {"learning_rat": t.suggest_float("learning_rat", 0, 1)}},
            "did you mean 'learning_rate'",
        ),
        (
            {"hp_space": lambda t: {"warmup_ratio": t.suggest_float("warmup_ratio", 2, 3)}},
            "warmup_ratio must lie",
        ),
        ({"hp_space": 7}, "hp_space must be"),
        ({"points_to_evaluate": [{"learning_rte": 1e-3}]}, "did you mean 'learning_rate'"),
        (
            {"points_to_evaluate": [{"learning_rate": "1e-3"}]},
            r"points_to_evaluate\[0\]: 'learning_rate' must be a number, found '1e-3'",
        ),
        (
            {
                "hp_space": lambda t: {"optim": t.suggest_categorical("optim", ["adamw_torch", "sgd"])},
                "points_to_evaluate": [{"optim": "sgd"}, {"optim": "adam"}],
            },
            r"points_to_evaluate\[1\]: 'optim' must be one of \['adamw_torch', 'sgd'\], found 'adam'",
        ),
        ({"warm_start": "nowhere"}, "no folder of a search"),
        ({"rungs": 0}, "rungs: expected"),
        ({"scheduler": "pbt", "rungs": 4, "terminator": True}, "leave out terminator"),
        ({"terminator": "soon"}, "terminator: expected True"),
        ({"constraints": ["eval_los <= 1"]}, "'eval_los <= 1' is reported by no evaluation"),
        ({"pruner": None}, 'scheduler="asha"'),
        ({"search_alg": None}, "suggested by an Optuna sampler"),
        ({"sampler": "GPSample"}, "did you mean 'GPSampler'"),
        ({"sampler": "GridSampler"}, "unknown name 'GridSampler'"),
    ],
)
def test_bad_input_is_refused_before_ray_starts(
    options: dict[str, Any], said: str, tmp_path: Path, tiny_folder: Path
) -> None:
    bad(tmp_path, tiny_folder, said, **options)


def test_trials_that_wait_need_whole_checkpoints(tmp_path: Path, tiny_folder: Path) -> None:
    one = trainer(tmp_path, tiny_folder)
    one.args.save_only_model = True
    with pytest.raises(ValueError, match="no optimizer with save_only_model=True"):
        one.hyperparameter_search(rate, "eval_dev_spearman_cosine", scheduler="halving")


def test_the_evaluations_that_trials_are_compared_by(tmp_path: Path, tiny_folder: Path) -> None:
    one = trainer(tmp_path, tiny_folder)
    one.args.ray_scope = "best"
    with pytest.raises(ValueError, match="ray_scope: expected one of"):
        one.hyperparameter_search(rate, "eval_dev_spearman_cosine")
    one.args.ray_scope = "all"
    folder = tmp_path / "out" / "mine"
    folder.mkdir(parents=True)
    checked = check_search(one, rate, "eval_dev_spearman_cosine", 2, "maximize")
    was = {"space": checked.distributions, "directions": ["maximize"], "seed": checked.seed}
    (folder / "search.json").write_text(json.dumps(was))
    with pytest.raises(ValueError, match='ray_scope was null, now "all"'):
        one.hyperparameter_search(rate, "eval_dev_spearman_cosine", direction="maximize", name="mine")


def test_no_model_init(tmp_path: Path, tiny_folder: Path, tiny_model: Any) -> None:
    bad(tmp_path, tiny_folder, "needs a trainer with model_init", model_init=None, model=tiny_model)


def test_an_unknown_name_that_model_init_did_not_read(tmp_path: Path, tiny_folder: Path) -> None:
    def model_init(trial: Any) -> SentenceTransformer:
        if trial is not None:
            trial.get("pooling")
        return SentenceTransformer(str(tiny_folder), device="cpu")

    bad(
        tmp_path,
        tiny_folder,
        "model_init did not read it; did you mean 'pooling'",
        SpaceError,
        model_init=model_init,
        hp_space=lambda trial: {"poling": trial.suggest_int("poling", 0, 1)},
    )


def test_an_existing_name_with_another_space(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "out" / "mine"
    folder.mkdir(parents=True)
    (folder / "search.json").write_text('{"space": {}, "directions": ["maximize"], "seed": 42}')
    bad(tmp_path, tiny_folder, "exists with other settings: space was", name="mine")


def test_arguments_of_optuna_and_ray_tune_mean_what_they_meant() -> None:
    given = {"study_name": "s", "timeout": 60, "n_jobs": 2, "sampler": "RandomSampler"}
    options = as_options(given, 1)
    assert (options.name, options.time_budget_s, options.max_concurrent_trials) == ("s", 60, 2)
    assert isinstance(options.sampler(7), optuna.samplers.RandomSampler)
    assert (as_options({"n_jobs": -1}, 1).max_concurrent_trials or 0) > 10_000  # as many as fit
    with pytest.raises(
        ValueError, match="max_concurrent_trials: expected a whole number of at least 1, found -2"
    ):
        as_options({"n_jobs": -2}, 1)


def test_training_data_may_be_part_of_the_search(tmp_path: Path, tiny_folder: Path) -> None:
    data = Dataset.from_dict({**ROWS, "score": [1.0, 0.0, 0.7, 0.2]})

    def space(trial: Any) -> None:
        trial.suggest_int("rows", 2, 4)

    template = checked(
        trainer(tmp_path, tiny_folder), space, data_init=lambda trial: data.select(range(trial["rows"]))
    )
    assert len(template(0, {"rows": 3}).data.train_dataset) == 3
    assert template.base is not None


def test_names_that_only_some_points_have_are_found(tmp_path: Path, tiny_folder: Path) -> None:
    def space(trial: Any) -> None:
        way = trial.suggest_categorical("way", list("abcdef"))
        trial.suggest_float(f"{way}_scale", 1, 30)

    def loss_init(model: Any, trial: Any) -> Any:
        return losses.CoSENTLoss(model, scale=trial[f"{trial['way']}_scale"])

    assert checked(trainer(tmp_path, tiny_folder, loss=losses.CoSENTLoss), rate).base is not None
    one = trainer(tmp_path, tiny_folder)
    one.loss_init = loss_init
    assert checked(one, space).base is not None


def test_a_trial_leaves_nothing_in_callbacks(tmp_path: Path, tiny_folder: Path) -> None:
    class Counting(TrainerCallback):
        seen: list[int]

    callback = Counting()
    callback.seen = []
    template = checked(trainer(tmp_path, tiny_folder, callbacks=[callback]), rate)
    first, second = (template(n, {}).description.options["callbacks"][0] for n in (0, 1))
    first.seen.append(1)
    assert second.seen == callback.seen == []


def test_counts_and_backends() -> None:
    assert trials_wanted(0, [{"a": 1}, {"a": 2}]) == 2
    assert trials_wanted(5, [{"a": 1}]) == 5
    assert (as_backend(None), as_backend("optuna")) == ("ray", "optuna")
    assert issubclass(SearchFailed, RuntimeError)
    assert issubclass(ObjectiveError, ValueError)
