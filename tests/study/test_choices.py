"""Choices of any kind: suggested, written down, gone on with, shown in the report."""

from __future__ import annotations

import csv
import json
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from ray_st.study.any_choices import AnyChoices, as_plain, label
from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.search_report import write_report
from ray_st.study.space import draw, probe
from ray_st.study.study import Study
from ray_st.study.trial_arguments import SpaceError
from ray_st.study.trial_table import write_table
from ray_st.training_args import BatchSamplers

KINDS: dict[str, list[Any]] = {
    "lists": [[64, 128], [64], []],
    "tuples": [(1, 2), (3,)],
    "nested": [{"dims": (64, 32)}, {"dims": (64,)}],
    "integers": list(np.arange(3)),
    "fractions": list(np.logspace(-5, -3, 3)),
    "arrays": [np.array([1, 2]), np.array([3])],
    "truths": [np.True_, np.False_],
    "paths": [Path("models/a"), Path("models/b")],
    "members": [BatchSamplers.NO_DUPLICATES, BatchSamplers.BATCH_SAMPLER],
    "mixed": [None, "a", 1, 2.5, [1]],
}


def space(trial: Any) -> dict[str, Any]:
    drawn = {name: trial.suggest_categorical(name, choices) for name, choices in KINDS.items()}
    for name, value in drawn.items():
        assert any(value is choice for choice in KINDS[name])  # as it was given
    assert {name: as_plain(name, value) for name, value in drawn.items()} == trial.params
    return {"lists": drawn["lists"], "constant": (np.float32(0.5), Path("c"))}


def study(folder: Path, **options: Any) -> Study:
    return Study(space, Objective(None, ("maximize",)), Journal(folder / "journal.jsonl"), 6, **options)


def test_a_search_with_any_choices_goes_on_and_has_a_report(tmp_path: Path) -> None:
    killed = study(tmp_path)
    for number in range(3):
        asked = killed.ask()
        assert asked is not None
        assert asked.values == json.loads(json.dumps(asked.values))
        assert asked.values["constant"] == [0.5, "c"]
        killed.report(number, 1, 10, [number / 2])
        killed.tell(number, "COMPLETE")
    killed.ask()
    after = study(tmp_path)
    assert [record.values for record in after.records] == [record.values for record in killed.records]
    assert after.ask().number == 3  # type: ignore[union-attr]
    for number in range(3, 6):
        after.report(number, 1, 10, [number / 2])
        after.tell(number, "COMPLETE")
        after.ask()
    assert after.records[5].values.keys() == {*KINDS, "constant"}
    pytest.importorskip("plotly")
    assert write_report(tmp_path, after, 1)
    text = (tmp_path / "report.html").read_text()
    assert "could not be drawn" not in text
    assert "<h2>Importances</h2>" in text


def test_given_points_may_have_them_too(tmp_path: Path) -> None:
    point = {"lists": [64], "tuples": (1, 2), "integers": np.int64(2), "paths": Path("models/b")}
    asked = study(tmp_path, points=[point]).ask()
    assert asked is not None
    assert {name: asked.values[name] for name in point} == {
        "lists": [64],
        "tuples": [1, 2],
        "integers": 2,
        "paths": "models/b",
    }


def test_a_space_that_returns_nothing_has_the_plain_values() -> None:
    def silent(trial: Any) -> None:
        trial.suggest_categorical("dims", [(64, 32)])
        trial.suggest_float("rate", np.float64(0.5), np.float32(0.5))

    assert probe(silent)[0].values == {"dims": [64, 32], "rate": 0.5}


def test_all_else_of_a_trial_is_optunas() -> None:
    trial = AnyChoices(optuna.create_study().ask())
    assert trial.suggest_int("n", 1, 1) == 1
    assert (trial.number, trial.params) == (0, {"n": 1})
    with pytest.raises(AttributeError, match="suggest_nothing"):
        _ = trial.suggest_nothing


class Kind(Enum):
    A = object()


@pytest.mark.parametrize("value", [object(), {1, 2}, b"a", print, Kind.A, {1: 2}, [lambda: 1], 1j])
def test_what_cannot_be_written_down_is_refused_by_name(value: Any) -> None:
    with pytest.raises(SpaceError, match=r"hp_space: 'x' is .*Draw a name"):
        draw(lambda trial: {"x": trial.suggest_categorical("x", [value])}, optuna.create_study().ask())
    with pytest.raises(SpaceError, match=r"hp_space: 'x' is .*Draw a name"):
        draw(lambda trial: {"x": value}, optuna.create_study().ask())


def nested(trial: Any) -> None:
    """Names under choices of any kind."""
    kind = trial.suggest_categorical(
        "kind", [{"name": "a", "betas": [0.9, None]}, {"name": "b", "deep": {"x": [1, {"y": 2}]}}, None]
    )
    if kind is None:
        trial.suggest_categorical("only_none", [None])
    elif kind["name"] == "a":
        trial.suggest_float("a_rate", 0, 1)
        if trial.suggest_categorical("a_more", [[1, 2], [3]]) == [1, 2]:
            trial.suggest_int("a_deep", 1, 3)
    trial.suggest_categorical("twice", ["x", "x", "y"])


@pytest.mark.parametrize("database", [False, True])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_names_under_choices_of_any_kind(database: bool, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}" if database else None
    point = {"kind": {"name": "a", "betas": (0.9, None)}, "a_more": [1, 2], "a_deep": 2, "twice": "y"}

    def opened() -> Study:
        journal = Journal(tmp_path / "journal.jsonl")
        given = {"storage": storage, "name": "s"} if database else {}
        return Study(nested, Objective(None, ("maximize",)), journal, 16, points=[point], **given)

    one = opened()
    for number in range(16):
        if number % 5 == 4:  # its driver was killed
            one.ask()
            one = opened()
        asked = one.ask()
        assert asked is not None
        one.report(number, 1, 10, [float(number % 7)])
        one.tell(number, "COMPLETE")
    first = one.records[0].values
    assert first["kind"] == {"name": "a", "betas": [0.9, None]}
    assert (first["a_more"], first["a_deep"], first["twice"]) == ([1, 2], 2, "y")
    for record in one.records:
        kind = record.values["kind"]
        assert ("only_none" in record.values) == (kind is None)
        assert ("a_rate" in record.values) == (kind is not None and kind["name"] == "a")
        assert ("a_deep" in record.values) == (record.values.get("a_more") == [1, 2])
    assert [trial.params for trial in one.study.trials] == [record.params for record in one.records]
    write_table(tmp_path / "trials.csv", one.records, 1)
    with (tmp_path / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, record in zip(rows, one.records, strict=True):
        kind = record.values["kind"]
        assert row["kind"] == "None" if kind is None else json.loads(row["kind"]) == kind
        assert row["only_none"] == ("None" if kind is None else "")
    pytest.importorskip("plotly")
    assert write_report(tmp_path, one, 1)
    assert "could not be drawn" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("choices", [[1, True], [0, 2, False], [True, 1.0], ["[1]", [1]]])
def test_choices_that_optuna_takes_for_the_same_are_refused(choices: list[Any]) -> None:
    with pytest.raises(SpaceError, match=r"hp_space: 'x' has the choices .* Draw names"):
        probe(lambda trial: {"x": trial.suggest_categorical("x", choices)})


def test_labels() -> None:
    assert [label(value) for value in ("a", 1, None, [1, "b"], {"b": 1, "a": 2})] == [
        "a",
        1,
        None,
        '[1, "b"]',
        '{"a": 2, "b": 1}',
    ]
