from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from ray_st.evaluation import RerankingEvaluator

SAMPLE = {"query": "q", "positive": ["a", "b"], "negative": ["c", "d", "e"]}
OTHER = {"query": "r", "positive": ["c"], "negative": ["a"]}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"query": "q", "positive": ["a"]}], r"either 'negative' or 'documents'; sample 0 is the keys"),
        ([SAMPLE, {"positive": ["a"], "negative": ["b"]}], "sample 1 is the keys"),
        ([{**SAMPLE, "documents": ["a"]}], "either 'negative' or 'documents'"),
        (["text"], "sample 0 is 'text'"),
        ([{**SAMPLE, "query": None}], "query in each sample; that of sample 0 is None"),
        ([{**SAMPLE, "positive": None}], "list of texts for 'positive'; sample 0 has None"),
        ([{**SAMPLE, "negative": ["c", None]}], "'negative' of sample 0; row 1 is None"),
        ([{**SAMPLE, "positive": []}, {**SAMPLE, "negative": []}], "None of the 2 samples has both"),
        ([], "needs at least one row; samples are empty"),
    ],
)
def test_bad_data_is_refused(samples, message) -> None:
    with pytest.raises(ValueError, match=message):
        RerankingEvaluator(samples)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at_k must be at least 1; got 0"):
        RerankingEvaluator([SAMPLE], at_k=0)


def test_samples_that_lack_a_side_are_left_out_and_counted(model, caplog) -> None:
    samples = [SAMPLE, {**SAMPLE, "positive": []}, {**SAMPLE, "negative": []}, {**OTHER, "negative": []}]
    with caplog.at_level(logging.WARNING):
        evaluator = RerankingEvaluator(samples)
    assert "3 of 4 samples are left out: 1 have no relevant document, 2 no other" in caplog.text
    assert evaluator(model) == RerankingEvaluator([SAMPLE])(model)


def test_candidates_that_are_not_positive_are_the_others(model) -> None:
    candidates = {"query": "q", "positive": ["a", "b"], "documents": ["c", "a", "d", "e"]}
    assert RerankingEvaluator([candidates, OTHER])(model) == RerankingEvaluator([SAMPLE, OTHER])(model)
    with pytest.raises(ValueError, match="None of the 1 samples"):
        RerankingEvaluator([{**candidates, "documents": ["a"]}])


def test_a_dict_of_samples_and_single_documents(model) -> None:
    one = {"query": "r", "positive": "c", "negative": "a"}
    assert RerankingEvaluator({"x": SAMPLE, "y": one})(model) == RerankingEvaluator([SAMPLE, OTHER])(model)


def test_one_by_one_gives_the_same_and_asks_for_the_roles_prompts(model, make_model) -> None:
    alone = make_model()
    together = RerankingEvaluator([SAMPLE, OTHER])(model)
    assert RerankingEvaluator([SAMPLE, OTHER], use_batched_encoding=False)(alone) == together
    assert [call["prompt_name"] for call in model.calls] == ["query", "passage"]
    assert [call["texts"] for call in model.calls] == [["q", "r"], ["a", "b", "c", "d", "e"]]
    assert [call["prompt_name"] for call in alone.calls] == ["query", "passage"] * 2


def test_nan_scores_are_refused_by_query(model) -> None:
    good = model._embed
    model._embed = lambda text: good(text) * (np.nan if text == "ask: r" else 1)
    with pytest.raises(ValueError, match="those of query 'r' are not"):
        RerankingEvaluator([SAMPLE, OTHER])(model)


def test_a_function_that_gives_other_scores_is_refused(model) -> None:
    evaluator = RerankingEvaluator([SAMPLE], similarity_fct=lambda query, documents: torch.ones(3))
    with pytest.raises(ValueError, match="a score for each document; got 3 for 5"):
        evaluator(model)


def test_the_older_name_of_at_k_is_warned_of(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert RerankingEvaluator([SAMPLE], mrr_at_k=3).primary_metric == "ndcg@3"
    assert "at_k=3 is used" in caplog.text
