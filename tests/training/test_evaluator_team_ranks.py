"""Encoding dealt out to ranks gives each of them what one process gets, to the last bit."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.training.distributed import evaluator_team
from ray_st.training.distributed.evaluator_team import RankTeam, together
from ray_st.util.team import Alone, share_out
from ray_st.world import World
from simulated_team import ThreadTeam
from simulated_team import together as on_threads

TEXTS = ["a sunny man eats " * (i % 7 + 1) + "pasta" * (i % 3) for i in range(23)]


def on_all_ranks(size: int, task: Callable[[World], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Results of a task on each rank of a world whose ranks are threads."""
    here = threading.local()
    monkeypatch.setattr(evaluator_team, "gather_objects", lambda value: here.team.gather(value))

    def run(team: ThreadTeam) -> Any:
        here.team = team
        return task(World(team.rank, size))

    return on_threads(size, run)


class Batches:
    """A model of numbers: encodes a text as its length, in batches of two."""

    device = "cpu"

    def __init__(self) -> None:
        self.embedded: list[int] = []
        self.team: Any = Alone()

    def encode(self, texts: list[str]) -> list[Any]:
        batches = [np.arange(start, min(start + 2, len(texts))) for start in range(0, len(texts), 2)]

        def embed(rows: np.ndarray) -> Any:
            self.embedded += rows.tolist()
            return [torch.tensor([len(texts[row])]) for row in rows]

        return [int(value) for batch in share_out(self.team, batches, embed) for value in batch]


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 3, 15])
def test_every_batch_is_run_by_one_rank_and_reaches_all(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["x" * (i + 1) for i in range(count)]
    embedded: list[int] = []

    def task(world: World) -> list[int]:
        model = Batches()
        with together(model, world):
            lengths = model.encode(texts)
        embedded.extend(model.embedded)
        return lengths

    assert on_all_ranks(size, task, monkeypatch) == [[len(text) for text in texts]] * size
    assert sorted(embedded) == [*range(count)]


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
        model = copy.deepcopy(tiny_model)
        with together(model, world):
            return model.encode(TEXTS, batch_size=4, **options)

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
        model = copy.deepcopy(tiny_model)
        with together(model, world):
            return model.encode_query(TEXTS, batch_size=4)

    assert all(np.array_equal(found, expected) for found in on_all_ranks(2, task, monkeypatch))


def test_a_model_gets_its_team_back() -> None:
    model = Batches()
    before = model.team
    with together(model, World()):
        assert model.team is before

    def failing_evaluator() -> None:
        with together(model, World(0, 2)):
            assert model.team == RankTeam(0, 2)
            raise ValueError("evaluator failed")

    with pytest.raises(ValueError, match="evaluator failed"):
        failing_evaluator()
    assert model.team is before


def test_a_model_without_batches_encodes_by_itself() -> None:
    class Other:
        def encode(self, texts: list[str]) -> int:
            return len(texts)

    with together(Other(), World(0, 2)):
        assert Other().encode(["a"]) == 1
