"""The names of earlier releases: today's metrics, the arguments in their order there, and a warning."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from peer_figures import assert_same_files, close
from ray_st.evaluation import reranker

PAIRS = [[f"first {i}", f"second {i}"] for i in range(12)]
LABELS = [int(i % 3 == 0) for i in range(12)]
SAMPLES = [{"query": f"q{i}", "positive": [f"p{i}"], "negative": ["a", "b", "c"]} for i in range(5)]
OLD = {
    "CEBinaryAccuracyEvaluator": (PAIRS, LABELS),
    "CEBinaryClassificationEvaluator": (PAIRS, LABELS),
    "CEF1Evaluator": (PAIRS, LABELS),
    "CESoftmaxAccuracyEvaluator": (PAIRS, LABELS),
    "CECorrelationEvaluator": (PAIRS, LABELS),
    "CERerankingEvaluator": (SAMPLES,),
}


@pytest.fixture(params=OLD)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("labels", [1, 2])
def test_metrics_and_files_are_the_peers(name, labels, peers, make_model, tmp_path) -> None:
    if labels == 2 and name in ("CECorrelationEvaluator", "CERerankingEvaluator"):
        labels = 1
    ours, theirs = (getattr(home, name)(*OLD[name], name="dev") for home in (reranker, peers))
    model = make_model(num_labels=labels)
    found = ours(model, str(tmp_path / "ours"), 1, 2)
    assert found == close(theirs(model, str(tmp_path / "theirs"), 1, 2))
    assert ours.primary_metric == theirs.primary_metric
    assert ours.description == theirs.description
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")


def test_the_name_of_today_is_told(name, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        evaluator = getattr(reranker, name)(*OLD[name])
    today = type(evaluator).__mro__[1].__name__
    assert f"{name} is an old name: use {today}" in caplog.text


POSITIONS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("CEBinaryAccuracyEvaluator", ("dev", 0.3, False), {"name": "dev", "write_csv": False}),
    (
        "CEBinaryClassificationEvaluator",
        ("dev", True, False),
        {"name": "dev", "show_progress_bar": True, "write_csv": False},
    ),
    ("CESoftmaxAccuracyEvaluator", ("dev", False), {"name": "dev", "write_csv": False}),
    ("CECorrelationEvaluator", ("dev", False), {"name": "dev", "write_csv": False}),
    ("CERerankingEvaluator", (3, "dev", False), {"name": "dev", "write_csv": False, "at_k": 3}),
    ("CERerankingEvaluator", (3, "dev", False, 4), {"name": "dev", "at_k": 4}),
]


@pytest.mark.parametrize(("name", "given", "expected"), POSITIONS)
def test_arguments_by_position_mean_what_they_meant(name, given, expected) -> None:
    evaluator = getattr(reranker, name)(*OLD[name], *given)
    assert {key: getattr(evaluator, key) for key in expected} == expected


def test_a_threshold_is_told_to_have_no_effect(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        reranker.CEBinaryAccuracyEvaluator(PAIRS, LABELS, threshold=0.4)
    assert "threshold=0.4 has no effect" in caplog.text


@pytest.mark.parametrize("name", [name for name in OLD if name != "CERerankingEvaluator"])
def test_examples_and_further_options(name, model) -> None:
    examples = [SimpleNamespace(texts=pair, label=label) for pair, label in zip(PAIRS, LABELS, strict=True)]
    evaluator = getattr(reranker, name).from_input_examples(examples, name="dev", batch_size=5)
    assert type(evaluator) is getattr(reranker, name)
    assert evaluator(model) == getattr(reranker, name)(PAIRS, LABELS, name="dev")(model)
    assert model.calls[0]["batch_size"] == 5
