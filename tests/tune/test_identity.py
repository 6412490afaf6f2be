"""What must be the same when a search of a name is started again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.study.journal import RecordError
from ray_st.study.search_settings import check_found, check_settings
from ray_st.training.checkpoint.lease import RunInUse, held
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.tune.checked_search import check_search
from ray_st.tune.identity import argument_facts, fixed_settings, objective_facts

FIRST = {"a": ["good weather", "bad man", "sunny", "pasta"], "b": ["the sun", "a man", "weather", "eats"]}
SCORES = [1.0, 0.0, 0.7, 0.2]
OBJECTIVE = "eval_dev_spearman_cosine"


def rate(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)}


def trainer(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    arguments = {"learning_rate": 1.0, "report_to": [], "use_cpu": True, **options.pop("arguments", {})}
    given = {
        "model_init": lambda: SentenceTransformer(str(model_folder), device="cpu"),
        "loss": lambda model: losses.CoSENTLoss(model),
        "train_dataset": Dataset.from_dict({**FIRST, "score": SCORES}),
        "evaluator": EmbeddingSimilarityEvaluator(FIRST["a"], FIRST["b"], SCORES, name="dev"),
        **options,
    }
    return SentenceTransformerTrainer(
        args=SentenceTransformerTrainingArguments(str(folder / "out"), **arguments), **given
    )


def lasting(one: SentenceTransformerTrainer, objective: Any = OBJECTIVE, **options: Any) -> dict[str, Any]:
    return fixed_settings(check_search(one, rate, objective, 2, "maximize", **options), one)


def begun(folder: Path, one: SentenceTransformerTrainer, **options: Any) -> None:
    """A search named "mine" that another driver began."""
    (folder / "out" / "mine").mkdir(parents=True)
    check_settings(folder / "out" / "mine", lasting(one, **options))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"arguments": {"learning_rate": 2.0}},  # every trial draws its own
        {"arguments": {"save_strategy": "no", "logging_steps": 3, "hub_token": "secret", "output_dir": "b"}},
    ],
)
def test_a_search_begun_again_is_the_same(change: dict[str, Any], tmp_path: Path, tiny_folder: Path) -> None:
    change = {**change, "arguments": dict(change.get("arguments", {}))}
    folder = tmp_path / change["arguments"].pop("output_dir", "a")
    facts = lasting(trainer(tmp_path / "a", tiny_folder))
    assert lasting(trainer(folder, tiny_folder, **change), scheduler=None, max_concurrent_trials=1) == facts
    assert "secret" not in json.dumps(facts)
    assert "args.learning_rate" not in facts


def _other_model(folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu")
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    return model


CHANGES: dict[str, tuple[Any, str]] = {
    "data": (
        lambda f: {"train_dataset": Dataset.from_dict({**FIRST, "score": [1.0, 0, 0, 0]})},
        "data.train",
    ),
    "loss": (lambda f: {"loss": losses.AnglELoss}, "loss was"),
    "scale": (lambda f: {"loss": lambda model: losses.CoSENTLoss(model, scale=7)}, "loss was"),
    "weights": (lambda f: {"model_init": lambda: _other_model(f)}, "model was"),
    "argument": (lambda f: {"arguments": {"weight_decay": 0.5}}, "args.weight_decay was null, now 0.5"),
    "batch": (lambda f: {"arguments": {"per_device_train_batch_size": 2}}, "2 rows a global batch"),
    "rows": (
        lambda f: {"evaluator": EmbeddingSimilarityEvaluator(FIRST["b"], FIRST["b"], SCORES, name="dev")},
        "evaluators was",
    ),
    "metrics": (lambda f: {"compute_metrics": lambda predictions: {"score": 1.0}}, "functions was"),
}


def test_what_data_are_of_any_kind(tmp_path: Path, tiny_folder: Path) -> None:
    rows = "a,b,score\ngood,sun,1\nbad,man,0\n"
    (tmp_path / "a.csv").write_text(rows)
    tables = {"one": str(tmp_path / "a.csv"), "two": Dataset.from_dict({**FIRST, "score": SCORES})}

    def facts() -> dict[str, Any]:
        one = trainer(tmp_path, tiny_folder, train_dataset=tables, eval_dataset=tables)
        return {name: fact for name, fact in lasting(one).items() if name.startswith("data.")}

    before = facts()
    assert set(before) == {"data.train.one", "data.train.two", "data.eval.one", "data.eval.two"}
    assert before["data.train.one"].startswith("a, b, score; 8 rows a global batch; 1 parts (begin with ")
    assert "4 rows (" in before["data.eval.two"]
    assert facts() == before
    (tmp_path / "a.csv").write_text(rows.replace("sun", "moon"))
    after = facts()
    assert {name for name in after if after[name] != before[name]} == {"data.train.one", "data.eval.one"}


@pytest.mark.parametrize("name", CHANGES)
def test_another_search_under_the_same_name_is_refused(name: str, tmp_path: Path, tiny_folder: Path) -> None:
    begun(tmp_path, trainer(tmp_path, tiny_folder))
    change, said = CHANGES[name]
    other = trainer(tmp_path, tiny_folder, **change(tiny_folder))
    with pytest.raises(RecordError, match=f"named 'mine' exists with other settings: .*{said}"):
        other.hyperparameter_search(rate, OBJECTIVE, 2, "maximize", name="mine")


@pytest.mark.parametrize(
    "other", ["eval_dev_pearson_cosine", lambda figures: -figures[OBJECTIVE], [OBJECTIVE]]
)
def test_another_objective_is_refused(other: Any, tmp_path: Path, tiny_folder: Path) -> None:
    one = trainer(tmp_path, tiny_folder)
    begun(tmp_path, one, objective=OBJECTIVE)
    with pytest.raises(RecordError, match=f'objective was "{OBJECTIVE}", now '):
        one.hyperparameter_search(rate, other, 2, "maximize", name="mine")


def test_of_two_searches_of_one_name_the_second_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    one, folder = trainer(tmp_path, tiny_folder), tmp_path / "out" / "mine"
    with (
        held(CheckpointStore(str(folder)), beat_s=0.05),
        pytest.raises(RunInUse, match=f"{folder} is in use: process "),
    ):
        one.hyperparameter_search(rate, OBJECTIVE, 2, "maximize", name="mine")
    assert not (folder / "journal.jsonl").exists()
    assert not (folder / "search.json").exists()


def test_other_rungs_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    one = trainer(tmp_path, tiny_folder)
    begun(tmp_path, one, rungs=3)
    with pytest.raises(RecordError, match="rungs was 3, now 4"):
        one.hyperparameter_search(rate, OBJECTIVE, 2, "maximize", name="mine", rungs=4)


def test_a_search_learns_from_no_values_that_mean_something_else(tmp_path: Path, tiny_folder: Path) -> None:
    one, earlier = trainer(tmp_path, tiny_folder), tmp_path / "out" / "mine"
    begun(tmp_path, one)
    (earlier / "journal.jsonl").write_text("")
    options: dict[str, Any] = {"warm_start": str(earlier)}
    assert check_search(one, rate, OBJECTIVE, 2, "maximize", rungs=7, **options).earlier == []
    for objective, direction in (("eval_dev_pearson_cosine", "maximize"), (OBJECTIVE, "minimize")):
        with pytest.raises(RecordError, match=r"warm_start: the values of .*mine cannot be compared"):
            check_search(one, rate, objective, 2, direction, **options)


def test_objectives_are_told_apart_by_what_they_give() -> None:
    def facts(compute: Any) -> Any:
        return objective_facts(compute)["objective"]

    def again(figures: dict[str, float]) -> float:
        return figures["a"] + figures["b"]

    same = facts(lambda figures: figures["a"] + figures["b"])
    assert facts(again) == same
    assert same.startswith("a function of a, b (")
    functions: list[Any] = [
        lambda m: m["a"] - m["b"],
        lambda m: m["b"] - m["a"],
        lambda m: max(m["a"], m["b"]),
        lambda m: min(m["a"], m["b"]),
        lambda m: [m["a"], m["b"]],
        lambda m: max(m.values()),
        lambda m: min(m.values()),
        None,
        "a",
    ]
    assert len({json.dumps(facts(one)) for one in functions}) == len(functions)


def test_only_arguments_that_decide_are_compared(tmp_path: Path) -> None:
    args = SentenceTransformerTrainingArguments(str(tmp_path), report_to=[], use_cpu=True, seed=7)
    assert argument_facts(args, {"learning_rate"})["args.seed"] == 7
    assert "args.seed" not in argument_facts(args, {"seed"})
    assert argument_facts(dataclasses.replace(args, dataloader_drop_last=True), ())[
        "args.dataloader_drop_last"
    ]


# ---- the file ----


def test_each_search_has_an_identifier_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = check_settings(tmp_path / "a", {"seed": 1})
    assert first
    assert check_settings(tmp_path / "a", {"seed": 1}) == first
    assert check_settings(tmp_path / "b", {"seed": 1}) != first


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text('{"space": {}, "directions": ["maximize"], "seed": 1}')
    now = {"space": {}, "directions": ["maximize"], "seed": 1, "objective": "eval_loss"}
    assert check_settings(tmp_path, now) == ""
    with pytest.raises(RecordError, match='ray_scope was null, now "all"'):
        check_settings(tmp_path, {**now, "ray_scope": "all"})


def test_encoded_data_are_compared_too(tmp_path: Path) -> None:
    check_settings(tmp_path, {"seed": 1})
    check_found(tmp_path, {"train": "64 rows (a)"})
    check_found(tmp_path, {"train": "64 rows (a)"})
    with pytest.raises(RecordError, match=r'train was "64 rows \(a\)", now "64 rows \(b\)"'):
        check_found(tmp_path, {"train": "64 rows (b)"})
    check_settings(tmp_path, {"seed": 1})


@pytest.mark.parametrize("text", ["{", "[1]", '"x"'])
def test_damaged_settings_are_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(RecordError, match=r"search\.json"):
        check_settings(tmp_path, {"seed": 1})
