"""Fewer workers embed as many texts at a time as all would, and get the same loss and gradient."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ray_st.losses import (
    CachedMultipleNegativesRankingLoss,
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.loop.batch_memory import BuildWithinMemory, embed_in_parts, texts_at_once
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World


def dataset(rows: int, columns: str) -> Any:
    return SimpleNamespace(
        batch_size=rows, encoding=SimpleNamespace(columns=SimpleNamespace(texts=tuple(columns)))
    )


def test_the_texts_of_a_share_with_all_workers() -> None:
    specs: Any = {
        "train": SimpleNamespace(datasets={"pairs": dataset(64, "ab"), "triplets": dataset(30, "abc")})
    }
    assert texts_at_once(specs, 4) == {"pairs": 32, "triplets": 24}
    assert texts_at_once({}, 4) == {}


@pytest.mark.parametrize(("size", "expected"), [(1, {"": 8}), (3, {"": 8}), (4, {})])
def test_only_fewer_workers_than_possible_are_limited(
    size: int, expected: dict[str, int], tmp_path: Path
) -> None:
    seen: list[WorkerContext] = []
    context = WorkerContext(World(0, size), CheckpointStore(str(tmp_path)))
    BuildWithinMemory(seen.append, {"": 8}, 4)(context)
    assert [one.texts_at_once for one in seen] == [expected]


class Calls(nn.Module):
    """A model that counts the rows of its calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, list[int]()

    def forward(self, features: dict[str, Any]) -> Any:
        self.rows.append(len(features["input_ids"]))
        return self.model(features)


@pytest.mark.parametrize("kind", ["in-batch negatives", "rows by themselves", "modified"])
def test_loss_and_gradient_are_the_same(kind: str, tiny_model: Any) -> None:
    def made(model: nn.Module) -> Any:
        if kind == "rows by themselves":
            return CosineSimilarityLoss(model)
        loss = MultipleNegativesRankingLoss(model, gather_across_devices=True)
        return MatryoshkaLoss(model, loss, [32, 16]) if kind == "modified" else loss

    texts = [[f"one {i}" for i in range(12)], [f"two {i * i} good" for i in range(12)]]
    features = [tiny_model.tokenize(column) for column in texts]
    labels = torch.linspace(0, 1, 12) if kind == "rows by themselves" else None
    found = []
    for limit in ({}, {"": 6}):
        model = Calls(copy.deepcopy(tiny_model))
        loss = made(model)
        embed_in_parts(loss, limit)
        value = loss(features, labels)
        value.backward()
        gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        found.append((value.item(), gradient, max(model.rows)))
    (whole, expected, all_at_once), (parts, gradient, most) = found
    assert parts == pytest.approx(whole, abs=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert most < all_at_once == 24


def test_a_limit_of_the_users_own_stays(tiny_model: Any) -> None:
    own = CachedMultipleNegativesRankingLoss(tiny_model, mini_batch_size=3, gather_across_devices=True)
    plain = CosineSimilarityLoss(tiny_model)
    embed_in_parts({"pairs": own, "scored": plain}, {"pairs": 8, "scored": 20})
    assert (own.mini_batch_size, plain.mini_batch_size) == (3, 20)


def test_a_loss_for_all_datasets_has_room_for_the_largest(tiny_model: Any) -> None:
    loss = CosineSimilarityLoss(tiny_model)
    embed_in_parts(loss, {"pairs": 8, "scored": 20})
    assert loss.mini_batch_size == 20


def test_it_says_what_losses_do(tiny_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Own(nn.Module):
        """A user's loss, which is no ray_st Loss."""

    embed_in_parts({"one": CosineSimilarityLoss(tiny_model), "two": Own()}, {"one": 8, "two": 8})
    embed_in_parts(CosineSimilarityLoss(tiny_model), {"": 8}, is_first=False)
    embed_in_parts(CosineSimilarityLoss(tiny_model), {})
    embeds, cannot = capsys.readouterr().out.splitlines()
    assert embeds.startswith("CosineSimilarityLoss embeds 8 texts at a time")
    assert cannot.startswith("Own cannot embed in parts")
