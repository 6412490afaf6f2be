from __future__ import annotations

import logging
from typing import Any

import pytest

from ray_st.evaluation import (
    EmbeddingSimilarityEvaluator,
    SentenceEvaluator,
    SequentialEvaluator,
    TripletEvaluator,
)


class Fixed(SentenceEvaluator):
    def __init__(self, value: float | dict[str, float], primary: str | None = None) -> None:
        self.value, self.primary_metric = value, primary

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> Any:
        return self.value


def both(module: Any) -> list[Any]:
    first, second, third = (["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"])
    return [
        module.EmbeddingSimilarityEvaluator(first, second, [0.1, 0.7, 0.3], name="sts"),
        module.TripletEvaluator(first, second, third, name="nli"),
    ]


def test_metrics_and_files_are_the_peers(model, peers, tmp_path) -> None:
    from ray_st import evaluation

    ours, theirs = SequentialEvaluator(both(evaluation)), peers.SequentialEvaluator(both(peers))
    found, expected = ours(model, str(tmp_path / "a"), 1, 2), theirs(model, str(tmp_path / "b"), 1, 2)
    assert found == pytest.approx(expected, abs=1e-6)
    assert ours.primary_metric == theirs.primary_metric == "sequential_score"
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in (tmp_path / "b").iterdir()}


def test_the_score_is_made_from_primary_metrics() -> None:
    parts = [Fixed(0.5), Fixed({"x": 0.25, "y": 3.0}, "y"), Fixed({"z": 1.0})]
    assert SequentialEvaluator(parts)(None) == {
        "evaluator_0": 0.5,
        "x": 0.25,
        "y": 3.0,
        "z": 1.0,
        "sequential_score": 1.0,
    }
    assert SequentialEvaluator(parts, sum)(None)["sequential_score"] == 4.5


def test_names_are_said_if_all_evaluators_say_theirs(model) -> None:
    from ray_st import evaluation

    class One(Fixed):
        def metric_names(self, model: Any) -> list[str]:
            return ["evaluator"]

    known = [*both(evaluation), One(0.5)]
    assert SequentialEvaluator(known).metric_names(model) == list(SequentialEvaluator(known)(model))
    assert SequentialEvaluator([*known, Fixed(0.5)]).metric_names(model) is None
    assert SequentialEvaluator([SequentialEvaluator(known)]).metric_names(model) is not None


def test_metrics_of_one_name_are_warned_of(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        SequentialEvaluator([Fixed({"x": 1.0}), Fixed({"x": 2.0})])(None)
    assert "give evaluators a name" in caplog.text


def test_no_evaluator_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one evaluator; found none"):
        SequentialEvaluator([])


def test_a_subclass_needs_no_constructor() -> None:
    class Mine(SentenceEvaluator):
        def __call__(self, model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> float:
            return 1.0

    assert Mine().greater_is_better
    assert Mine().primary_metric is None
    assert Mine().description == "Mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BinaryClassificationEvaluator", "Binary Classification"),
        ("CERerankingEvaluator", "Cross Encoder Reranking"),
        ("Own", "Own"),
    ],
)
def test_descriptions_come_from_the_class(name, words) -> None:
    assert type(name, (Fixed,), {})(1.0).description == words


def test_kinds() -> None:
    assert issubclass(EmbeddingSimilarityEvaluator, SentenceEvaluator)
    assert issubclass(TripletEvaluator, SentenceEvaluator)
