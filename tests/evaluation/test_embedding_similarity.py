from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ray_st.evaluation import EmbeddingSimilarityEvaluator

A, B, SCORES = ["a", "b", "c"], ["d", "e", "f"], [0.1, 0.9, 0.4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, B[:2], SCORES), r"same length; found \{'sentences1': 3, 'sentences2': 2, 'scores': 3\}"),
        ((A, B, SCORES[:1]), "same length"),
        ((A, ["d", None, "f"], SCORES), "sentences2; row 1 is None"),
        (("abc", B, SCORES), "needs sentences1 as a list of texts; found the single text 'abc'"),
        ((A, B, [0.1, None, 0.4]), "scores; row 1 is None"),
        ((A, B, [0.1, "0.9", 0.4]), "scores; row 1 is '0.9'"),
        ((A, B, [0.1, 0.9, float("nan")]), "finite number in each row of scores; row 2 is nan"),
    ],
)
def test_bad_data_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingSimilarityEvaluator(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main_similarity": "cosin"}, "cosin"),
        ({"similarity_fn_names": ["l2"]}, "l2"),
        ({"similarity_fn_names": ["dot"], "main_similarity": "cosine"}, "'cosine' must be among"),
    ],
)
def test_unknown_similarities_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingSimilarityEvaluator(A, B, SCORES, **options)


def test_from_input_examples_and_arrays(model) -> None:
    examples = [SimpleNamespace(texts=[a, b], label=s) for a, b, s in zip(A, B, SCORES, strict=True)]
    from_examples = EmbeddingSimilarityEvaluator.from_input_examples(examples, name="dev")
    from_lists = EmbeddingSimilarityEvaluator(np.array(A), tuple(B), np.array(SCORES), name="dev")
    assert from_examples(model) == from_lists(model)
    assert from_examples.primary_metric == "dev_spearman_cosine"


def test_both_sides_are_encoded_in_one_call(model) -> None:
    EmbeddingSimilarityEvaluator(A, B, SCORES)(model)
    assert [call["texts"] for call in model.calls] == [[*A, *B]]
