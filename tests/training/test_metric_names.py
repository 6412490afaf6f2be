"""Metrics whose names are known before a run starts, and what follows one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback, TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator, SentenceEvaluator, TripletEvaluator
from ray_st.evaluation.metric_names import MetricNames, names_in_training

ROWS = Dataset.from_dict({"a": ["one", "two"], "b": ["three", "four"], "score": [0.0, 1.0]})
BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 5, "save_steps": 5}
SPEED = ["runtime", "samples_per_second", "steps_per_second"]


def sts(name: str = "dev") -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(ROWS["a"], ROWS["b"], ROWS["score"], name=name)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(tiny_folder, device="cpu")


@pytest.fixture
def make(model: SentenceTransformer, tmp_path: Path) -> Any:
    def make(kind: Any = SentenceTransformerTrainer, **given: Any) -> SentenceTransformerTrainer:
        parts = ("eval_dataset", "evaluator", "callbacks", "compute_metrics", "optimizers", "model_init")
        options = {name: given.pop(name) for name in parts if name in given}
        options.setdefault("eval_dataset", ROWS)
        args = SentenceTransformerTrainingArguments(str(tmp_path), report_to="none", **given)
        if "model_init" not in options:
            options["model"] = model
        return kind(args=args, train_dataset=ROWS, **options)

    return make


class Own(SentenceEvaluator):
    """Says nothing of its metrics."""

    def __call__(self, model: Any, *args: Any, **options: Any) -> dict[str, float]:
        return {"anything": 1.0}


class Saying(Own):
    def metric_names(self, model: Any) -> list[str]:
        return ["anything"]


class Entering(TrainerCallback):
    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        metrics["eval_entered"] = 1.0


class Logging(SentenceTransformerTrainer):
    def log(self, logs: Any, *args: Any) -> None:
        super().log({**logs, "more": 1.0}, *args)


def test_names_of_each_form_of_evaluation_data(model: Any) -> None:
    def names(*datasets: str, evaluator: Any = None) -> list[str]:
        return list(names_in_training(datasets, evaluator, model, False).known)

    speed = [f"eval_{name}" for name in SPEED]
    assert names("") == ["eval_loss", *speed]
    assert names("one")[:2] == ["eval_one_loss", "eval_one_runtime"]
    figures = ["eval_dev_pearson_cosine", "eval_dev_spearman_cosine"]
    assert names("one", "two", evaluator=sts())[-3:] == ["eval_two_steps_per_second", *figures]
    assert names(evaluator=sts()) == [*figures, "eval_runtime"]
    assert names(evaluator=sts("eval"))[0] == "eval_pearson_cosine"  # not twice
    assert names(evaluator=Saying()) == ["eval_anything", "eval_runtime"]


def test_what_is_not_known_is_not_refused(make: Any, model: Any) -> None:
    complete = make().metric_names().complete
    assert complete
    wanted = {**BEST, "metric_for_best_model": "anything"}
    for unknown in (
        {"evaluator": Own()},
        {"evaluator": lambda *args, **options: 1.0},
        {"evaluator": [sts(), Own()]},
        {"compute_metrics": lambda found: {}},
        {"callbacks": [Entering()]},
        {"kind": Logging},
    ):
        assert not make(**unknown, **wanted).metric_names().complete
    assert make(evaluator=Saying(), **wanted).metric_names().complete
    with pytest.raises(ValueError, match="no evaluation of this trainer reports 'eval_anything'"):
        make(compute_metrics=lambda found: {}, prediction_loss_only=True, **wanted)


@pytest.mark.parametrize("name", ["dev_spearman_cosine", "eval_dev_spearman_cosine", "loss", "eval_runtime"])
def test_a_metric_may_be_called_with_and_without_the_prefix(make: Any, name: str) -> None:
    make(evaluator=sts(), metric_for_best_model=name, **BEST)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"metric_for_best_model": "dev_spearman_cosin", "evaluator": sts(), **BEST},
            r"='dev_spearman_cosin': no evaluation of this trainer reports 'eval_dev_spearman_cosin'; did you mean "
            r"'eval_dev_spearman_cosine'\? There are, the most similar first: eval_dev_spearman_cosine, ",
        ),
        (
            {"metric_for_best_model": "dev_spearman_dot", "evaluator": [sts(), sts("test")], **BEST},
            "did you mean 'eval_dev_spearman_cosine'",
        ),
        (
            {"eval_dataset": {"one": ROWS, "two": ROWS}, **BEST},
            r"metric_for_best_model='loss' \(the default\): .* 'eval_loss'; did you mean 'eval_(one|two)_loss'\?",
        ),
        ({"eval_dataset": None, "evaluator": sts(), **BEST}, r"'loss' \(the default\)"),
        (
            {"metric_for_best_model": "f1", "eval_strategy": "epoch"},
            "reports 'eval_f1'. There are, the most similar first: eval_loss",
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "reduce_lr_on_plateau requires an eval strategy"),
        (
            {
                "lr_scheduler_type": "reduce_lr_on_plateau",
                "eval_strategy": "epoch",
                "metric_for_best_model": "lss",
            },
            "did you mean 'eval_loss'",
        ),
        (
            {"callbacks": [EarlyStoppingCallback()], "eval_strategy": "epoch"},
            r"^EarlyStoppingCallback needs metric_for_best_model, .* report: eval_loss, eval_runtime, .*_per_second\.$",
        ),
        (
            {
                "callbacks": [EarlyStoppingCallback],
                "eval_strategy": "epoch",
                "compute_metrics": lambda found: {},
            },
            r"eval_steps_per_second, and what your own parts report\.$",
        ),
        (
            {"callbacks": [EarlyStoppingCallback()], "metric_for_best_model": "loss"},
            "^EarlyStoppingCallback follows a metric of evaluations, and eval_strategy='no' makes none",
        ),
        (
            {"save_strategy": "best", "eval_strategy": "epoch"},
            "^save_strategy='best' needs metric_for_best_model, .* report: eval_loss",
        ),
        ({"eval_strategy": "epoch", "eval_dataset": None}, "'epoch' needs an eval_dataset or an evaluator"),
    ],
)
def test_what_follows_a_metric_that_is_not_there(make: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_a_schedule_of_the_users_own(make: Any, model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    plateau = {"optimizers": (optimizer, ReduceLROnPlateau(optimizer))}
    for arguments, message in (
        ({}, "the schedule ReduceLROnPlateau follows a metric"),
        ({"eval_strategy": "epoch"}, "the schedule ReduceLROnPlateau needs metric_for_best_model"),
        (
            {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_on": "background"},
            "metrics too late for ReduceLROnPlateau",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make(**plateau, **arguments)
    make(**plateau, eval_strategy="epoch", metric_for_best_model="loss")


def test_a_model_that_is_made_in_the_constructor(make: Any, model: Any) -> None:
    with pytest.raises(ValueError, match="did you mean 'eval_dev_pearson_cosine'"):
        make(model_init=lambda: model, evaluator=sts(), metric_for_best_model="dev_pearson_cos", **BEST)


def test_what_is_changed_later_is_refused_later(make: Any) -> None:
    trainer = make(evaluator=sts())
    trainer.add_callback(EarlyStoppingCallback())
    with pytest.raises(ValueError, match="EarlyStoppingCallback follows a metric"):
        trainer.train()


def test_many_names_are_cut(model: Any) -> None:
    names = MetricNames(tuple(f"eval_{i}" for i in range(30)), True)
    assert names.listed("eval_29").startswith("eval_29, ")
    assert names.listed().endswith(", and 6 more")
    several = TripletEvaluator(["a"], ["b"], ["c"], similarity_fn_names=["dot", "cosine"])
    assert "eval_max_accuracy" in names_in_training([], several, model, False).known
