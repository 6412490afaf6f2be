from __future__ import annotations

import pytest
import torch

from ray_st.evaluation.top_k import best, rank
from ray_st.util import dot_score


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
    found = None
    for first in range(0, 40, chunk):
        new = rank(queries, corpus[first : first + chunk], dot_score, 6, first, scores_at_once)
        found = new if found is None else found.merged(new, 6)
    assert found.documents.tolist() == slow(dot_score(queries, corpus), 6)


def test_no_more_scores_are_held_than_allowed() -> None:
    sizes = []

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a) * len(b))
        return dot_score(a, b)

    rank(torch.ones(50, 3), torch.ones(20, 3), score, 5, scores_at_once=100)
    assert max(sizes) <= 100
