from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from ray_st import util
from simulated_team import together

ROWS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COARSE = torch.randint(0, 2, (40, 4), generator=torch.Generator().manual_seed(0)).double()


def slow(rows: torch.Tensor, top_k: int, max_pairs: int) -> list[tuple[int, int]]:
    scores = util.dot_score(rows, rows).tolist()
    near = {
        i: set(sorted((j for j in range(len(rows)) if j != i), key=lambda j: (-scores[i][j], j))[:top_k])
        for i in range(len(rows))
    }
    pairs = [(i, j) for i, j in combinations(range(len(rows)), 2) if j in near[i] or i in near[j]]
    return sorted(pairs, key=lambda pair: (-scores[pair[0]][pair[1]], pair))[:max_pairs]


@pytest.mark.parametrize("rows", [ROWS, COARSE], ids=["plain", "ties"])
@pytest.mark.parametrize(("query_chunk", "corpus_chunk"), [(1, 3), (7, 11), (100, 100)])
@pytest.mark.parametrize(("top_k", "max_pairs"), [(1, 10_000), (3, 20), (100, 10_000), (100, 7)])
def test_pairs_are_those_of_a_slow_search(
    rows: torch.Tensor, query_chunk: int, corpus_chunk: int, top_k: int, max_pairs: int
) -> None:
    found = util.paraphrase_mining_embeddings(
        rows, query_chunk, corpus_chunk, max_pairs, top_k, util.dot_score
    )
    assert [(i, j) for _, i, j in found] == slow(rows, top_k, max_pairs)
    assert [score for score, _, _ in found] == pytest.approx([float(rows[i] @ rows[j]) for _, i, j in found])


@pytest.mark.parametrize("options", [{}, {"top_k": 4, "query_chunk_size": 9}, {"max_pairs": 11, "top_k": 5}])
def test_pairs_are_the_peers(peer: Any, options: dict[str, int]) -> None:
    ours = util.paraphrase_mining_embeddings(ROWS, **options)
    theirs = peer.util.paraphrase_mining_embeddings(ROWS, **options)
    assert [pair[1:] for pair in ours] == [pair[1:] for pair in theirs]
    assert [pair[0] for pair in ours] == pytest.approx([pair[0] for pair in theirs])


def test_texts_are_mined_as_by_the_peer(peer: Any, tiny_model: Any) -> None:
    texts = [f"a {'good ' * (i % 5)}man eats {'pasta ' * (i % 3)}{i}" for i in range(20)]
    options = {"batch_size": 4, "top_k": 3, "truncate_dim": 20, "prompt": "query: "}
    ours = util.paraphrase_mining(tiny_model, texts, **options)
    theirs = peer.util.paraphrase_mining(tiny_model, texts, **options)
    assert [pair[0] for pair in ours] == pytest.approx([pair[0] for pair in theirs], abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("rows", [ROWS, COARSE], ids=["plain", "ties"])
def test_a_team_finds_the_same(size: int, rows: torch.Tensor) -> None:
    options: dict[str, Any] = {"query_chunk_size": 6, "max_pairs": 50, "top_k": 4}
    expected = util.paraphrase_mining_embeddings(rows, **options)
    found = together(size, lambda team: util.paraphrase_mining_embeddings(rows, **options, team=team))
    assert found == [expected] * size


def test_a_single_text_has_no_pairs() -> None:
    assert util.paraphrase_mining_embeddings(ROWS[:1]) == []


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS[:0], {}, "at least one embedding"),
        (ROWS, {"top_k": 0}, r"top_k must be at least 1; got 0"),
        (ROWS.where(ROWS[5, 1] != ROWS, torch.nan), {"max_pairs": 1}, "texts 0 and 5 is no number"),
    ],
)
def test_bad_input(rows: torch.Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        util.paraphrase_mining_embeddings(rows, **options)
