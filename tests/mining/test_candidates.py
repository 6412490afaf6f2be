"""What is found does not depend on shards, blocks, or who searches."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.mining.candidates import Found, search_shard, shards
from ray_st.mining.choice import Choice
from ray_st.mining.embedder import Embedder
from ray_st.mining.pairs import Pairs
from ray_st.mining.report import Tally
from ray_st.mining.select import mined_blocks
from ray_st.similarity_functions import SimilarityFunction
from ray_st.util import mine_hard_negatives
from ray_st.util.search.top_k import Ranking


class Numbers:
    """Embeds text "7" as the seventh row of a table of small whole numbers: many scores are equal."""

    device = torch.device("cpu")
    similarity_fn_name = "dot"
    similarity = staticmethod(SimilarityFunction.to_similarity_fn("dot"))
    similarity_pairwise = staticmethod(SimilarityFunction.to_similarity_pairwise_fn("dot"))
    table = np.random.default_rng(0).integers(-2, 3, (300, 6)).astype(np.float32)

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        return self.table[[int(text) for text in texts]]

    encode_query = encode_document


def numbered(queries: int = 50, documents: int = 120, pairs: int = 90) -> Pairs:
    draws = np.random.default_rng(3)
    asked = [*range(queries), *draws.integers(0, queries, pairs - queries)]
    answers = draws.integers(0, documents, pairs)
    corpus = [str(number) for number in range(documents)]
    return Pairs.of([str(250 + int(q)) for q in asked], [str(a) for a in answers], corpus)


def searched(pairs: Pairs, size: int, k: int, queries_at_once: int = 100) -> Found:
    embedder = Embedder(Numbers())
    queries, documents = embedder.queries(pairs.queries), embedder.documents(pairs.corpus)
    parts = [
        search_shard(embedder, queries, documents[part.start : part.stop], part, pairs, k, queries_at_once)
        for part in shards(len(documents), size)
    ]
    return reduce(lambda one, other: one.merged(other, k), parts)


@pytest.mark.parametrize("size", [1, 7, 50, 119, 120, 1000])
@pytest.mark.parametrize("k", [1, 9, 200])
def test_shards_merge_to_the_whole(size: int, k: int) -> None:
    pairs = numbered()
    found = searched(pairs, size, k)
    table = Numbers.table
    scores = table[[int(text) for text in pairs.queries]] @ table[:120].T
    best = [sorted(range(120), key=lambda place: (-row[place], place))[:k] for row in scores]
    assert found.ranking.documents.tolist() == best
    np.testing.assert_array_equal(found.ranking.scores, np.take_along_axis(scores, np.array(best), axis=1))
    np.testing.assert_array_equal(found.positives, scores[pairs.query_of, pairs.positive_of])


@pytest.mark.parametrize("queries_at_once", [1, 8, 33])
def test_blocks_of_queries_find_the_same(queries_at_once: int) -> None:
    pairs = numbered()
    one, other = searched(pairs, 40, 9, queries_at_once), searched(pairs, 40, 9)
    assert torch.equal(one.ranking.documents, other.ranking.documents)


@pytest.mark.parametrize("strategy", ["top", "random"])
@pytest.mark.parametrize("block", [1, 7, 49])
def test_blocks_choose_the_same(block: int, strategy: str) -> None:
    pairs = numbered()
    found = searched(pairs, 40, 30)
    choice = Choice(4, 1, 20, max_score=5.0, relative_margin=0.1, sampling_strategy=strategy)
    totals, tallies = [], []
    for size in (block, 1000):
        tally = Tally()
        blocks = list(mined_blocks(pairs, found, choice, None, tally, size))
        totals.append(
            [np.concatenate([getattr(part, name) for part in blocks]) for name in ("negatives", "scores")]
        )
        tallies.append((tally.removed, tally.candidates))
    np.testing.assert_array_equal(totals[0][1], totals[1][1])
    there = np.isfinite(totals[0][1])
    np.testing.assert_array_equal(totals[0][0][there], totals[1][0][there])
    assert tallies[0] == tallies[1]


def test_pairs_are_numbered_once_each() -> None:
    pairs = Pairs.of(["b", "a", "b", "b", "a"], ["x", "y", "z", "x", "w"], ["z", "u", "z"])
    assert pairs.queries == ["b", "a"]
    assert pairs.corpus == ["z", "u", "x", "y", "w"]
    assert pairs.query_of.tolist() == [0, 0, 1, 1]
    assert [pairs.corpus[number] for number in pairs.positive_of] == ["x", "z", "y", "w"]
    assert (pairs.rows, pairs.most_rows) == (5, 3)
    assert pairs.of_queries(1, 2) == slice(2, 4)


def test_anyone_can_search() -> None:
    from datasets import Dataset

    asked = []

    def search(embedder: Embedder, pairs: Pairs, k: int) -> Found:
        asked.append(k)
        ranking = Ranking(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[0, 2, 1]]))
        return Found(ranking, torch.tensor([0.95]))

    data = Dataset.from_dict({"q": ["one"], "a": ["two"]})
    found = mine_hard_negatives(
        data, Numbers(), corpus=["far", "two", "near"], num_negatives=2, search=search, verbose=False
    )
    assert found["negative"][:] == ["far", "near"]
    assert asked == [4]


def test_no_more_is_compared_at_once_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a))
        return a @ b.T

    monkeypatch.setattr("ray_st.mining.embedder.dot_score", counted)
    searched(numbered(), 60, 5, queries_at_once=6)
    assert max(sizes) == 6
