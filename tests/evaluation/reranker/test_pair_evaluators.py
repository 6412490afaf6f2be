"""What the evaluators of rerankers refuse and warn of."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from ray_st.evaluation.metrics.multiclass import f1_metrics
from ray_st.evaluation.reranker import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    CrossEncoderRerankingEvaluator,
)

PAIRS = [["a", "b"], ["c", "d"], ["e", "f"]]
SAMPLE = {"query": "q", "positive": ["a", "b"], "negative": ["c", "d", "e"]}
RANKED = {"query": "q", "positive": ["a", "b"], "documents": ["c", "a", "d"]}


@pytest.mark.parametrize(
    ("kind", "third"),
    [(CrossEncoderClassificationEvaluator, "labels"), (CrossEncoderCorrelationEvaluator, "scores")],
)
@pytest.mark.parametrize(
    ("pairs", "values", "message"),
    [
        (PAIRS, [0, 1], r"lists of the same length; found {'sentence_pairs': 3, '\w+': 2}"),
        ([*PAIRS, "gh"], [0, 1, 0, 1], "needs pairs of two texts; row 3 is 'gh'"),
        ([["a"], *PAIRS], [0, 1, 0, 1], r"needs pairs of two texts; row 0 is \['a'\]"),
        ([["a", None], *PAIRS], [0, 1, 0, 1], "needs two texts in each pair; row 0 has None"),
        (PAIRS, [0, 1, None], r"in each row of \w+.*; row 2 is None"),
        (PAIRS, [0, float("nan"), 1], r"in each row of \w+.*; row 1 is nan"),
    ],
)
def test_bad_pairs_are_refused(kind, third, pairs, values, message) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} .*{message}"):
        kind(pairs, values)


@pytest.mark.parametrize("label", [-1, 0.5, "1"])
def test_labels_that_are_no_class_are_refused(label) -> None:
    with pytest.raises(ValueError, match="needs a class in each row of labels, a whole number from 0; row 1"):
        CrossEncoderClassificationEvaluator(PAIRS, [0, label, 1])


def test_labels_may_be_floats_and_truth_values(model) -> None:
    expected = CrossEncoderClassificationEvaluator(PAIRS, [0, 1, 1])(model)
    for labels in ([0.0, 1.0, 1.0], [False, True, True], np.array([0, 1, 1])):
        assert CrossEncoderClassificationEvaluator(PAIRS, labels)(model) == expected


def test_a_class_that_the_model_lacks_is_refused(make_model) -> None:
    evaluator = CrossEncoderClassificationEvaluator(PAIRS, [0, 1, 2])
    with pytest.raises(ValueError, match="num_labels=1 has the classes 0 to 1; row 2 of labels is 2"):
        evaluator(make_model())
    with pytest.raises(ValueError, match="num_labels=2 has the classes 0 to 1; row 2"):
        evaluator(make_model(num_labels=2))
    assert evaluator(make_model(num_labels=3))


def test_one_evaluator_measures_models_of_either_kind(make_model) -> None:
    evaluator = CrossEncoderClassificationEvaluator(PAIRS, [0, 1, 1], name="dev")
    for labels, primary in ((1, "dev_average_precision"), (2, "dev_f1_macro"), (1, "dev_average_precision")):
        found = evaluator(make_model(num_labels=labels))
        assert list(found) == evaluator.metric_names(make_model(num_labels=labels))
        assert evaluator.primary_metric == primary


@pytest.mark.parametrize("kind", [CrossEncoderClassificationEvaluator, CrossEncoderCorrelationEvaluator])
def test_examples_are_pairs_and_labels(kind, model) -> None:
    labels = [0, 1, 1]
    examples = [SimpleNamespace(texts=pair, label=label) for pair, label in zip(PAIRS, labels, strict=True)]
    evaluator = kind.from_input_examples(examples, name="dev")
    assert evaluator(model) == kind(PAIRS, labels, name="dev")(model)
    assert evaluator.name == "dev"


@pytest.mark.parametrize(
    ("kind", "message"),
    [(CrossEncoderClassificationEvaluator, "labels are 1"), (CrossEncoderCorrelationEvaluator, "scores are")],
)
def test_labels_all_the_same_are_warned_of(kind, message, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        kind(PAIRS, [1, 1, 1])
    assert f"all {message}" in caplog.text


@pytest.mark.parametrize(
    "evaluator",
    [CrossEncoderCorrelationEvaluator(PAIRS, [0, 1, 2]), CrossEncoderRerankingEvaluator([SAMPLE])],
    ids=lambda evaluator: type(evaluator).__name__,
)
def test_a_model_with_several_labels_is_refused(evaluator, make_model) -> None:
    with pytest.raises(
        ValueError, match="needs a model with one score of each pair; this one has num_labels=3"
    ):
        evaluator(make_model(num_labels=3))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"query": "q", "positive": ["a"]}], r"either 'negative' or 'documents'; sample 0 is the keys"),
        ([SAMPLE, {"positive": ["a"], "negative": ["b"]}], "sample 1 is the keys"),
        ([{**SAMPLE, "documents": ["a"]}], "either 'negative' or 'documents'"),
        ([{**SAMPLE, "query": None}], "query in each sample; that of sample 0 is None"),
        ([{**RANKED, "documents": ["c", None]}], "'documents' of sample 0; row 1 is None"),
        ([{**SAMPLE, "positive": []}, {**RANKED, "positive": []}], "'positive' is empty in each sample"),
    ],
)
def test_bad_samples_are_refused(samples, message) -> None:
    with pytest.raises(ValueError, match=f"CrossEncoderRerankingEvaluator needs .*{message}"):
        CrossEncoderRerankingEvaluator(samples)


def test_queries_without_a_relevant_document_count_as_0_with_a_warning(model, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        evaluator = CrossEncoderRerankingEvaluator([SAMPLE, {**SAMPLE, "positive": []}])
    assert "1 of 2 samples, the first is 1, have no relevant document in 'positive'" in caplog.text
    alone = CrossEncoderRerankingEvaluator([SAMPLE])(model)
    assert evaluator(model) == pytest.approx({key: value / 2 for key, value in alone.items()})


def test_a_first_stage_that_found_nothing_is_worth_0(model) -> None:
    evaluator = CrossEncoderRerankingEvaluator(
        [{**RANKED, "documents": ["c", "d"]}, {**RANKED, "documents": []}], always_rerank_positives=False
    )
    assert set(evaluator(model).values()) == {0.0}
    assert not model.calls
    assert evaluator.metric_names(model) == list(evaluator(model))


def test_one_document_alone_is_ranked(model) -> None:
    evaluator = CrossEncoderRerankingEvaluator([{"query": "q", "positive": "a", "negative": []}])
    assert set(evaluator(model).values()) == {1.0}


def test_an_option_without_effect_is_warned_of(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        CrossEncoderRerankingEvaluator([SAMPLE], always_rerank_positives=False)
    assert "always_rerank_positives=False has no effect" in caplog.text


def test_scores_that_do_not_tell_documents_apart_gain_nothing(model) -> None:
    model.predict = lambda pairs, **options: np.ones(len(pairs), dtype=np.float32)
    assert CrossEncoderRerankingEvaluator([SAMPLE], at_k=3)(model)["mrr@3"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_f1_is_scikit_learns(seed) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 1 + seed, (2, 30))
    predicted += seed % 3  # classes without labels, or without predictions
    found = f1_metrics(labels, predicted)
    for average in ("macro", "micro", "weighted"):
        expected = metrics.f1_score(labels, predicted, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(expected, abs=1e-12)
