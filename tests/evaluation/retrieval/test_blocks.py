"""A corpus that is searched by several ranks gives what one process finds, to the last bit."""

from __future__ import annotations

import copy
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from processes import run_ranks
from ray_st import SentenceTransformer
from ray_st.evaluation import InformationRetrievalEvaluator
from ray_st.evaluation.retrieval import blocks as sharded
from ray_st.evaluation.retrieval.blocks import cut, deal, text_lengths
from ray_st.util import cos_sim, dot_score
from ray_st.util.team import Alone
from simulated_team import together

WORDS = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "is",
    "and",
    "query",
    "document",
    "text",
    "word",
    "good",
    "bad",
    "weather",
    "sunny",
    "man",
    "eats",
    "pasta",
]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(1, 20))) for _ in range(300)]
QUERIES = {f"q{i}": TEXTS[i] for i in range(20)}
CORPUS = {f"d{i:03}": TEXTS[20 + i % 270] for i in range(280)}  # ten texts twice: equal scores
RELEVANT = {f"q{i}": {f"d{(i * 7 + j) % 280:03}" for j in range(1 + i % 3)} for i in range(20)}
OPTIONS = {
    "batch_size": 4,
    "score_functions": {"cosine": cos_sim, "dot": dot_score},
    "name": "dev",
    "write_predictions": True,
}


@pytest.mark.parametrize("count", [1, 5, 64, 1000, 300_000])
@pytest.mark.parametrize(("batch_size", "most"), [(1, 50_000), (32, 50_000), (32, 7), (5000, 50_000)])
def test_blocks_hold_every_document_once_the_longest_first(count: int, batch_size: int, most: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 9, count)
    blocks = cut(lengths, batch_size, most)
    assert sorted(np.concatenate(blocks)) == [*range(count)]
    assert all((np.diff(block) > 0).all() for block in blocks)
    assert len({len(block) for block in blocks[:-1]}) <= 1
    assert max(map(len, blocks)) <= min(most, max(sharded.MOST_ROWS, batch_size))
    assert all(lengths[a].min() >= lengths[b].max() for a, b in pairwise(blocks))


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 3, 64])
def test_blocks_are_dealt_once_and_evenly(size: int, count: int) -> None:
    costs = sorted(np.random.default_rng(size).integers(1, 100, count).tolist(), reverse=True)
    hands = deal(costs, size)
    assert sorted(chain(*hands)) == [*range(count)]
    loads = [sum(costs[block] for block in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(costs, default=0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tokens_are_counted_together(
    size: int, tiny_model: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded, "_TEXTS", 40)
    tokens = [int(tiny_model.tokenize([text])["attention_mask"].sum()) for text in TEXTS]
    for found in together(size, lambda team: text_lengths(tiny_model, TEXTS, team)):
        assert found.tolist() == tokens
    assert text_lengths(make_model(), TEXTS, Alone()).tolist() == [len(text) for text in TEXTS]


def evaluated(model: Any, folder: Path, **call: Any) -> tuple[dict[str, float], dict[str, bytes]]:
    found = InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, **OPTIONS)(model, str(folder), **call)
    return found, {path.name: path.read_bytes() for path in folder.iterdir()}


class Watched:
    """A model that notes which texts it embeds, and how many embeddings it ever hands out at once."""

    def __init__(self, model: Any, team: Any) -> None:
        self.model, self.team = copy.deepcopy(model), team
        self.similarity, self.similarity_fn_name = model.similarity, model.similarity_fn_name
        self.token_encoder = model.token_encoder
        self.calls: list[list[str]] = []

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.model.team = self.team
        self.calls.append(texts)
        return self.model.encode(texts, **options)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_metrics_files_and_scores_are_one_processs_to_the_last_bit(
    size: int, tiny_model: Any, tmp_path: Path
) -> None:
    expected = evaluated(tiny_model, tmp_path / "one")
    models = []

    def task(team: Any) -> Any:
        models.append(Watched(tiny_model, team))
        return evaluated(models[-1], tmp_path / f"{size}-{team.rank}")

    assert together(size, task) == [expected] * size
    blocks = [texts for model in models for texts in model.calls[1:]]
    assert sorted(chain(*blocks)) == sorted(CORPUS.values())  # each document by one rank
    assert max(map(len, blocks)) <= 8
    loads = [sum(map(len, chain(*model.calls[1:]))) for model in models]
    assert max(loads) < 1.2 * min(loads)


def test_more_ranks_than_blocks(tiny_model: Any, tmp_path: Path) -> None:
    corpus = dict(list(CORPUS.items())[:9])
    relevant = {"q0": {"d000", "d008"}}
    evaluator = InformationRetrievalEvaluator(QUERIES, corpus, relevant)
    expected = evaluator(tiny_model)
    assert together(3, lambda team: evaluator(Watched(tiny_model, team))) == [expected] * 3


def test_another_models_embeddings_and_embeddings_made_before(tiny_model: Any, tmp_path: Path) -> None:
    embeddings = tiny_model.encode(list(CORPUS.values()), convert_to_tensor=True)
    for i, options in enumerate([{"corpus_model": tiny_model}, {"corpus_embeddings": embeddings}]):
        expected = evaluated(tiny_model, tmp_path / f"{i}-one", **options)

        def task(team: Any, i: int = i, options: Any = options) -> Any:
            given = {name: copy.deepcopy(value) for name, value in options.items()}
            return evaluated(Watched(tiny_model, team), tmp_path / f"{i}-{team.rank}", **given)

        assert together(3, task) == [expected] * 3


def test_a_score_that_is_no_number_fails_on_every_rank(make_model: Any) -> None:
    class Broken(make_model):  # type: ignore[misc]
        def _embed(self, text: str) -> np.ndarray:
            return super()._embed(text) * (np.nan if text.endswith(CORPUS["d007"]) else 1)

    def task(team: Any) -> str:
        model = Broken()
        model.team = team
        with pytest.raises(
            ValueError, match="'cosine' score of query 'q0' and document 'd007' is no number"
        ) as error:
            InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, batch_size=2)(model)
        return str(error.value)

    assert len(set(together(2, task))) == 1


def _rank(rank: int, folder: str, model_folder: str, size: int) -> None:
    import torch.distributed as dist

    from ray_st.training.distributed.evaluator_team import together as on_ranks
    from ray_st.world import World

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    model = SentenceTransformer(model_folder, device="cpu")
    with on_ranks(model, World(rank, size)):
        found = evaluated(model, Path(folder) / str(rank))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_processes_give_the_bits_of_one(
    size: int, tiny_model: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = evaluated(tiny_model, tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    run_ranks(_rank, str(tmp_path), str(tiny_folder), size, count=size)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)] == [expected] * size
