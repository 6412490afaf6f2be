"""Two gloo processes with sharded weights (FSDP) train a reranker like one process with whole weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from processes import run_ranks
from ray_st import CrossEncoder, CrossEncoderTrainer
from ray_st.cross_encoder import losses
from ray_st.world import World
from reranker_rows import rows
from sharded_runs import ROWS, Runs, assert_equal, join

PLAIN = {"optim": "sgd", "learning_rate": 0.1}  # Adam makes rounding noise as large as any gradient


def binary(model: Any) -> Any:
    return losses.BinaryCrossEntropyLoss(model)


def lists(model: Any) -> Any:
    return losses.LambdaLoss(model)


def cached_lists(model: Any) -> Any:
    return losses.ListNetLoss(model, mini_batch_size=2)


RUNS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "pairs": (binary, "binary", {}),
    "lists": (lists, "lists", {}),
    "cached lists": (cached_lists, "lists", {}),
    "recomputed": (binary, "binary", {"activation_checkpointing": True}),
}
"""The loss, its rows, and ``fsdp_config``."""


class RerankerRuns(Runs):
    model_class = CrossEncoder
    trainer_class = CrossEncoderTrainer


def work(rank: int, size: int, folder: str) -> None:
    join(rank, size, folder)
    runs = RerankerRuns(World(rank, size), folder, f"{folder}/model")
    found = {
        name: runs.run(name, loss, rows(form, ROWS), True, config=config, **PLAIN)
        for name, (loss, form, config) in RUNS.items()
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_reranker: Path) -> Path:
    folder = tmp_path_factory.mktemp("rerankers")
    shutil.copytree(tiny_reranker, folder / "model")
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each rank found."""
    run_ranks(work, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_like_one_process(name: str, ranks: list[Any], folder: Path, tmp_path: Path) -> None:
    loss, form, _ = RUNS[name]
    alone = RerankerRuns(World(), str(tmp_path), str(folder / "model"))
    expected = alone.run("alone", loss, rows(form, ROWS), False, per_device_train_batch_size=4, **PLAIN)
    for rank in ranks:
        assert_equal(rank[name], expected)
