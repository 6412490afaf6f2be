"""Encoding dealt out to ranks gives each of them what one process gets, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ray_st.training import dealt
from ray_st.training.dealt import DealtRunner, dealt_encoding
from ray_st.world import World

TEXTS = ["a sunny man eats " * (i % 7 + 1) + "pasta" * (i % 3) for i in range(23)]


class Exchange:
    """Ranks one after the other: what they send is kept, and the last walk gets everything."""

    def __init__(self, size: int) -> None:
        self.sent: list[list[Any]] = [[] for _ in range(size)]
        self.rank, self.calls, self.complete = 0, 0, False

    def gather(self, value: Any) -> list[Any]:
        call, self.calls = self.calls, self.calls + 1
        if self.complete:
            return [sent[call] for sent in self.sent]
        self.sent[self.rank].append(value)
        return [value for _ in self.sent]


def on_all_ranks(size: int, task: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Results of a task on each rank of a simulated world."""
    exchange = Exchange(size)
    monkeypatch.setattr(dealt, "gather_objects", exchange.gather)
    results = []
    for complete in (False, True):
        exchange.complete = complete
        results = []
        for rank in range(size):
            exchange.rank, exchange.calls = rank, 0
            try:
                results.append(task(World(rank, size)))
            except (
                ValueError
            ):  # the first walk only collects what is sent: its own results don't fit together
                if complete:
                    raise
    return results


class Batches:
    """A model of numbers: encodes a text as its length, in batches of two."""

    device = "cpu"

    def __init__(self) -> None:
        self.embedded: list[int] = []
        self.batch_runner: Any = lambda batches, embed: [embed(batch) for batch in batches]

    def encode(self, texts: list[str]) -> list[Any]:
        batches = [np.arange(start, min(start + 2, len(texts))) for start in range(0, len(texts), 2)]

        def embed(rows: np.ndarray) -> Any:
            self.embedded += rows.tolist()
            return [torch.tensor([len(texts[row])]) for row in rows]

        return [int(value) for batch in self.batch_runner(batches, embed) if batch for value in batch]


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 3, 15])
def test_every_batch_is_run_by_one_rank_and_reaches_all(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["x" * (i + 1) for i in range(count)]
    embedded: list[int] = []

    def task(world: World) -> list[int]:
        model = Batches()
        with dealt_encoding(model, world):
            lengths = model.encode(texts)
        embedded.extend(model.embedded)
        return lengths

    assert on_all_ranks(size, task, monkeypatch) == [[len(text) for text in texts]] * size
    assert sorted(embedded) == sorted([*range(count)] * 2)  # once in each walk


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_tensor": True, "normalize_embeddings": True},
        {"convert_to_numpy": False},
        {"precision": "int8"},
        {"precision": "ubinary"},
        {"output_value": "token_embeddings"},
        {"output_value": None},
        {"prompt": "query: "},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_embeddings_are_one_processs_to_the_last_bit(
    tiny_model: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tiny_model.encode(TEXTS, batch_size=4, **options)

    def task(world: World) -> Any:
        with dealt_encoding(tiny_model, world):
            return tiny_model.encode(TEXTS, batch_size=4, **options)

    for found in on_all_ranks(3, task, monkeypatch):
        assert same(found, expected)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    return type(found) is type(expected) and bool(np.array_equal(found, expected))


def test_queries_and_documents_are_dealt_too(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tiny_model.encode_query(TEXTS, batch_size=4)

    def task(world: World) -> Any:
        with dealt_encoding(tiny_model, world):
            return tiny_model.encode_query(TEXTS, batch_size=4)

    assert all(np.array_equal(found, expected) for found in on_all_ranks(2, task, monkeypatch))


def test_a_model_gets_its_runner_back() -> None:
    model = Batches()
    before = model.batch_runner
    with dealt_encoding(model, World()):
        assert model.batch_runner is before
    with pytest.raises(ValueError, match="evaluator failed"), dealt_encoding(model, World(0, 2)):
        assert isinstance(model.batch_runner, DealtRunner)
        raise ValueError("evaluator failed")
    assert model.batch_runner is before


def test_a_model_without_batches_encodes_by_itself() -> None:
    class Other:
        def encode(self, texts: list[str]) -> int:
            return len(texts)

    with dealt_encoding(Other(), World(0, 2)):
        assert Other().encode(["a"]) == 1
