from __future__ import annotations

import json
import logging

import pytest
import torch

from ray_st.evaluation import InformationRetrievalEvaluator
from ray_st.util import cos_sim, dot_score

QUERIES = {f"q{i}": f"query {i}" for i in range(6)}
CORPUS = {f"d{i}": f"document {i}" for i in range(20)}
RELEVANT = {f"q{i}": {f"d{i}", f"d{i + 7}"} for i in range(6)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, CORPUS, RELEVANT), "found 0 queries and 20 documents"),
        ((QUERIES, {}, RELEVANT), "found 6 queries and 0 documents"),
        ((QUERIES, CORPUS, {}), "None of the 6 queries has a relevant document"),
        ((QUERIES, CORPUS, {"q1": set()}), "None of the 6 queries has a relevant document"),
        (({1: "a"}, CORPUS, {"1": {"d1"}}), "query ids are like 1, keys of relevant_docs .* like '1'"),
        (
            (QUERIES, {1: "a"}, {"q1": {"1"}}),
            "None of the relevant documents is in the corpus: .*'1'.* like 1",
        ),
        (({"q1": None}, CORPUS, RELEVANT), "queries; row 0 is None"),
        ((QUERIES, {**CORPUS, "d3": None}, RELEVANT), "corpus; row .* is None"),
    ],
)
def test_bad_data_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        InformationRetrievalEvaluator(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mrr_at_k": [0]}, r"mrr_at_k must hold numbers of at least 1; got \[0\]"),
        ({"ndcg_at_k": []}, "ndcg_at_k must hold at least one"),
        ({"corpus_chunk_size": 0}, "corpus_chunk_size must be at least 1"),
        ({"score_functions": {"cosine": cos_sim}, "main_score_function": "dot"}, "'dot' must be among"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, **options)


def test_the_main_score_function_must_be_the_models(model) -> None:
    with pytest.raises(ValueError, match=r"'dot' must be among the score functions \['cosine'\]"):
        InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, main_score_function="dot")(model)


def test_queries_without_relevant_documents_are_left_out_loudly(model, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        evaluator = InformationRetrievalEvaluator(QUERIES, CORPUS, {**RELEVANT, "q2": set()})
    assert "1 of 6 queries" in caplog.text
    assert "q2" not in evaluator.queries_ids


@pytest.mark.parametrize("coarse", [False, True])
def test_metrics_do_not_depend_on_chunks_or_order(make_model, coarse) -> None:
    model = make_model(dim=4, coarse=coarse)
    turned = dict(reversed(CORPUS.items()))
    found = [
        InformationRetrievalEvaluator(QUERIES, corpus, RELEVANT, corpus_chunk_size=size)(model)
        for corpus in (CORPUS, turned)
        for size in (1, 3, 20, 100)
    ]
    assert all(metrics == found[0] for metrics in found)


def test_several_score_functions_are_the_peers(model, peers, tmp_path) -> None:
    options = {
        "score_functions": {"cosine": cos_sim, "dot": dot_score},
        "write_predictions": True,
        "name": "dev",
    }
    ours = InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, **options)
    theirs = peers.InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, **options)
    found, expected = ours(model, str(tmp_path / "ours")), theirs(model, str(tmp_path / "theirs"))
    assert found == pytest.approx(expected, abs=1e-6)
    assert ours.primary_metric == theirs.primary_metric
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    for name in names:
        mine, other = ((tmp_path / side / name).read_text().splitlines() for side in ("ours", "theirs"))
        if name.endswith(".jsonl"):
            for line, expected_line in zip(mine, other, strict=True):
                assert json.loads(line)["results"][0] == pytest.approx(
                    json.loads(expected_line)["results"][0], abs=1e-6
                )
                assert [r["corpus_id"] for r in json.loads(line)["results"]] == [
                    r["corpus_id"] for r in json.loads(expected_line)["results"]
                ]
        else:
            assert mine[0] == other[0]


def test_the_primary_metric_stays_once_chosen(model) -> None:
    signs = {"a": 1, "b": -1}
    functions = {
        name: lambda q, d, name=name: signs[name] * torch.arange(len(d)).expand(len(q), -1) for name in signs
    }
    corpus = {i: f"document {i}" for i in range(20)}
    evaluator = InformationRetrievalEvaluator({0: "query"}, corpus, {0: {19}}, score_functions=functions)
    evaluator(model)
    assert evaluator.primary_metric == "a_ndcg@10"
    signs.update(a=-1, b=1)
    evaluator(model)
    assert evaluator.primary_metric == "a_ndcg@10"


def test_a_corpus_encoded_before_is_taken_in_its_order(model) -> None:
    corpus = dict(sorted(CORPUS.items(), key=lambda item: item[1][::-1]))
    evaluator = InformationRetrievalEvaluator(QUERIES, corpus, RELEVANT, corpus_chunk_size=6)
    embeddings = model.encode(list(corpus.values()), prompt_name="passage", convert_to_tensor=True)
    assert evaluator(model, corpus_embeddings=embeddings) == evaluator(model)


def test_another_model_may_encode_the_corpus(model, make_model) -> None:
    other = make_model()
    InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT)(model, corpus_model=other)
    assert [len(call["texts"]) for call in (*model.calls, *other.calls)] == [6, 20]


def test_all_scores_are_never_held(make_model) -> None:
    model, sizes = make_model(), []

    def score(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        sizes.append(len(d))
        return cos_sim(q, d)

    InformationRetrievalEvaluator(
        QUERIES, CORPUS, RELEVANT, corpus_chunk_size=4, score_functions={"cosine": score}
    )(model)
    assert sizes == [4] * 5


def test_embeddings_of_another_corpus_are_refused(model) -> None:
    evaluator = InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT)
    with pytest.raises(ValueError, match="a row for each of the 20 documents; found 3"):
        evaluator(model, corpus_embeddings=torch.ones(3, 16))
    with pytest.raises(ValueError, match="same dimension; found 16 and 5"):
        evaluator(model, corpus_embeddings=torch.ones(20, 5))


def test_ranks_beyond_the_corpus_take_all_of_it(model) -> None:
    found = InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, precision_recall_at_k=[500])(model)
    assert found["cosine_recall@500"] == 1
    assert found["cosine_precision@500"] == pytest.approx(2 / 500)
