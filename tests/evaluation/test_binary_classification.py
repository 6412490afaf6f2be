from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from ray_st.evaluation import BinaryClassificationEvaluator

A, B, LABELS = ["a", "b", "c"], ["d", "e", "a"], [1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, B[:2], LABELS), r"same length; found \{'sentences1': 3, 'sentences2': 2, 'labels': 3\}"),
        ((A, B, LABELS[:1]), "same length"),
        ((A, ["d", None, "f"], LABELS), "sentences2; row 1 is None"),
        (("abc", B, LABELS), "needs sentences1 as a list of texts"),
        ((A, B, [1, 0, 2]), "labels of 0 and 1; row 2 is 2"),
        ((A, B, [1, -1, 0]), "row 1 is -1"),
        ((A, B, [1, 0.5, 0]), "row 1 is 0.5"),
        ((A, B, [1, "0", 0]), "row 1 is '0'"),
        ((A, B, [None, 0, 1]), "row 0 is None"),
        ((A, B, [0, 1, float("nan")]), "row 2 is nan"),
    ],
)
def test_bad_data_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryClassificationEvaluator(*arguments)


def test_unknown_similarities_are_refused() -> None:
    with pytest.raises(ValueError, match="l2"):
        BinaryClassificationEvaluator(A, B, LABELS, similarity_fn_names=["l2"])


def test_nan_similarities_are_refused_by_pair(model) -> None:
    good = model._embed
    model._embed = lambda text: good(text) * (np.nan if text == "e" else 1)
    with pytest.raises(ValueError, match=r"1 of 3 pairs have none, the first is pair 1 \(dot: nan\)"):
        BinaryClassificationEvaluator(A, B, LABELS, similarity_fn_names=["dot"])(model)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_warned_of(label, model, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        found = BinaryClassificationEvaluator(A, B, [label] * 3)(model)
    assert f"all labels are {label}" in caplog.text
    assert found["cosine_accuracy"] == 1
    assert found["cosine_ap"] == label
    assert found["cosine_mcc"] == 0


@pytest.mark.parametrize("labels", [np.array(LABELS), [True, False, True], [1.0, 0.0, 1.0]], ids=str)
def test_labels_of_other_kinds(labels, model) -> None:
    found = BinaryClassificationEvaluator(np.array(A), tuple(B), labels)(model)
    assert found == BinaryClassificationEvaluator(A, B, LABELS)(model)


def test_from_input_examples(model) -> None:
    examples = [SimpleNamespace(texts=[a, b], label=n) for a, b, n in zip(A, B, LABELS, strict=True)]
    evaluator = BinaryClassificationEvaluator.from_input_examples(examples, name="dev")
    assert evaluator(model) == BinaryClassificationEvaluator(A, B, LABELS, name="dev")(model)
    assert evaluator.primary_metric == "dev_cosine_ap"


def test_each_text_is_encoded_once_in_the_order_given(model) -> None:
    BinaryClassificationEvaluator(A, B, LABELS)(model)
    assert [call["texts"] for call in model.calls] == [["a", "b", "c", "d", "e"]]


def test_distances_say_yes_at_or_below_their_threshold(model) -> None:
    found = BinaryClassificationEvaluator(A, A, [1, 1, 1], similarity_fn_names=["euclidean", "cosine"])(model)
    assert found["euclidean_f1_threshold"] == 0
    assert str(found["euclidean_f1_threshold"]) == "0.0"
    assert found["cosine_f1_threshold"] == pytest.approx(1)
