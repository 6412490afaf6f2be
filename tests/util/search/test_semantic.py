from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ray_st import util

CORPUS = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
QUERIES = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slow(queries: torch.Tensor, corpus: torch.Tensor, k: int, function: Any) -> list[list[int]]:
    rows = function(queries, corpus).tolist()
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in rows]


def ids(found: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[hit["corpus_id"] for hit in hits] for hits in found]


@pytest.mark.parametrize("function", [util.cos_sim, util.dot_score, util.euclidean_sim])
@pytest.mark.parametrize(("query_chunk", "corpus_chunk"), [(1, 1), (3, 8), (100, 1000)])
@pytest.mark.parametrize("k", [1, 10, 99])
def test_finds_what_a_slow_search_finds(function: Any, query_chunk: int, corpus_chunk: int, k: int) -> None:
    found = util.semantic_search(QUERIES, CORPUS, query_chunk, corpus_chunk, k, function)
    assert ids(found) == slow(QUERIES, CORPUS, k, function)
    scores = function(QUERIES, CORPUS)
    for query, hits in enumerate(found):
        assert all(hit["score"] == pytest.approx(float(scores[query, hit["corpus_id"]])) for hit in hits)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3, "corpus_chunk_size": 9}, {"score_function": util.dot_score}]
)
def test_finds_what_the_peer_finds(peer: Any, options: dict[str, Any]) -> None:
    ours = util.semantic_search(QUERIES, CORPUS, **options)
    theirs = peer.util.semantic_search(QUERIES, CORPUS, **options)
    assert ids(ours) == ids(theirs)
    assert [list(hits[0]) for hits in ours] == [list(hits[0]) for hits in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert [hit["score"] for hit in mine] == pytest.approx([hit["score"] for hit in other], abs=1e-6)


@pytest.mark.parametrize(
    "form", [torch.Tensor.numpy, list, lambda rows: [row.numpy() for row in rows], torch.Tensor.tolist]
)
def test_any_form_of_embeddings(form: Any) -> None:
    assert ids(util.semantic_search(form(QUERIES), form(CORPUS))) == slow(QUERIES, CORPUS, 10, util.cos_sim)


def test_one_query_half_precision_and_an_array_on_disk(tmp_path: Any) -> None:
    assert ids(util.semantic_search(QUERIES[0], CORPUS)) == slow(QUERIES[:1], CORPUS, 10, util.cos_sim)
    np.save(tmp_path / "corpus.npy", CORPUS.half().numpy())
    corpus = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    expected = slow(QUERIES.float(), CORPUS.half().float(), 10, util.cos_sim)
    assert ids(util.semantic_search(QUERIES.float(), corpus, corpus_chunk_size=8)) == expected


def test_of_equal_scores_the_lower_number_goes_first() -> None:
    queries, corpus = QUERIES.round(), CORPUS.round()[:5].repeat(4, 1)
    found = util.semantic_search(queries, corpus, corpus_chunk_size=7, top_k=8, score_function=util.dot_score)
    assert ids(found) == slow(queries, corpus, 8, util.dot_score)


def test_the_older_name_and_no_queries() -> None:
    assert util.information_retrieval(QUERIES, CORPUS, top_k=2) == util.semantic_search(
        QUERIES, CORPUS, top_k=2
    )
    assert util.semantic_search(QUERIES[:0], CORPUS) == []


@pytest.mark.parametrize(
    ("queries", "corpus", "options", "message"),
    [
        (QUERIES, CORPUS[:0], {}, "corpus_embeddings is empty"),
        (QUERIES, [], {}, "corpus_embeddings is empty"),
        (QUERIES[:, :4], CORPUS, {}, "same dimension; found 4 and 6"),
        (QUERIES, CORPUS[None], {}, r"two dimensions, \(n, d\); found the shape \(1, 50, 6\)"),
        (QUERIES, CORPUS, {"top_k": 0}, "top_k must be at least 1; got 0"),
        (QUERIES, CORPUS, {"corpus_chunk_size": -1}, "corpus_chunk_size must be at least 1; got -1"),
        (
            QUERIES,
            CORPUS.where(CORPUS[17, 2] != CORPUS, torch.nan),
            {"top_k": 1},
            "query 0 and document 17 is no",
        ),
    ],
)
def test_bad_input(queries: Any, corpus: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        util.semantic_search(queries, corpus, **options)


def test_no_more_is_compared_at_a_time_than_asked() -> None:
    shapes = set()

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        shapes.add((len(a), len(b)))
        return util.dot_score(a, b)

    util.semantic_search(QUERIES, CORPUS, query_chunk_size=2, corpus_chunk_size=20, score_function=score)
    assert shapes == {(2, 20), (1, 20), (2, 10), (1, 10)}
