from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_st.evaluation import SimilarityFunction, TripletEvaluator

A, P, N = ["a", "b"], ["c", "d"], ["e", "f"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, P, N[:1]), r"same length; found \{'anchors': 2, 'positives': 2, 'negatives': 1\}"),
        ((A, [None, "d"], N), "positives; row 0 is None"),
    ],
)
def test_bad_data_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        TripletEvaluator(*arguments)


@pytest.mark.parametrize("margin", ["much", {"cosin": 0.1}, {"dot": "much"}, [0.1]])
def test_other_margins_are_refused(margin) -> None:
    with pytest.raises(ValueError, match="margin must be a number, or numbers by similarity"):
        TripletEvaluator(A, P, N, margin=margin)


def test_from_input_examples(model) -> None:
    examples = [SimpleNamespace(texts=list(texts)) for texts in zip(A, P, N, strict=True)]
    found = TripletEvaluator.from_input_examples(examples)(model)
    assert found == TripletEvaluator(A, P, N, main_distance_function=SimilarityFunction.COSINE)(model)


def test_prompts_follow_the_role(model) -> None:
    TripletEvaluator(A, P, N)(model)
    assert [call["prompt_name"] for call in model.calls] == ["query", "passage"]
    model.prompts = {}
    TripletEvaluator(A, P, N)(model)
    assert model.calls[-1]["prompt_name"] is None
