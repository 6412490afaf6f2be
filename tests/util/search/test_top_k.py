from __future__ import annotations

import pytest
import torch

from ray_st.util import cos_sim, dot_score
from ray_st.util.search.top_k import Ranking, best, merge, rank


def slow(scores: torch.Tensor, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]


@pytest.mark.parametrize("levels", [1, 2, 5, 10_000])
@pytest.mark.parametrize("k", [1, 4, 30, 99])
def test_best_breaks_ties_by_place(levels, k) -> None:
    scores = torch.randint(0, levels, (20, 30), generator=torch.Generator().manual_seed(levels)).float()
    found = best(scores, k)
    assert found.documents.tolist() == slow(scores, k)
    assert torch.equal(found.scores, scores.gather(1, found.documents))


@pytest.mark.parametrize("chunk", [1, 7, 13, 100])
@pytest.mark.parametrize("scores_at_once", [1, 50, 10**6])
def test_chunks_and_blocks_find_the_same(chunk, scores_at_once) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(0, 2, (9, 5), generator=generator).float()
    corpus = torch.randint(0, 2, (40, 5), generator=generator).float()
    found = Ranking.nothing(queries)
    for numbers in torch.arange(40).split(chunk):
        new = rank(queries, corpus[numbers], dot_score, 6, numbers, scores_at_once)
        found = merge([found, new], 6)
    assert found.documents.tolist() == slow(dot_score(queries, corpus), 6)


def test_no_more_scores_are_held_than_allowed() -> None:
    sizes = []

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a) * len(b))
        return dot_score(a, b)

    rank(torch.ones(50, 3), torch.ones(20, 3), score, 5, torch.arange(20), scores_at_once=100)
    assert max(sizes) <= 100


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_may_come_in_any_order_and_be_scattered(parts) -> None:
    generator = torch.Generator().manual_seed(parts)
    scores = torch.randint(0, 3, (9, 40), generator=generator).float()
    owners = torch.randint(0, parts, (40,), generator=generator)
    found = [Ranking.nothing(scores)]
    for part in range(parts):
        numbers = (owners == part).nonzero()[:, 0]
        found.insert(0, rank(torch.eye(9), scores[:, numbers].T, dot_score, 6, numbers))
    merged = merge(found, 6)
    assert merged.documents.tolist() == slow(scores, 6)
    assert torch.equal(merged.scores, scores.gather(1, merged.documents))


def test_cosines_are_those_of_the_function() -> None:
    queries, documents = torch.randn(5, 4), torch.randn(7, 4)
    by_parts = rank(queries, documents, cos_sim, 3, torch.arange(7), scores_at_once=7)
    torch.testing.assert_close(by_parts.scores, best(cos_sim(queries, documents), 3).scores)


def test_vectors_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="same dimension; found 3 and 4"):
        rank(torch.ones(2, 3), torch.ones(5, 4), dot_score, 2, torch.arange(5))


def test_a_score_that_is_no_number_is_found_however_few_are_kept() -> None:
    documents = torch.randn(6, 3)
    assert rank(torch.ones(2, 3), documents, dot_score, 1, torch.arange(6)).place_of_nan() is None
    documents[4, 1] = torch.nan
    parts = [rank(torch.ones(2, 3), documents[n], dot_score, 1, n) for n in torch.arange(6).split(2)]
    assert merge(parts, 1).place_of_nan() == (0, 4)
