"""One process of a node fetches a checkpoint, and all ranks start from the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch.distributed as dist

from processes import run_ranks
from ray_st.training.checkpoint.node_copy import fetch_on_node, own_start
from ray_st.training.checkpoint.store import STATES, CheckpointError, CheckpointStore
from ray_st.world import World


class Counting(CheckpointStore):
    """Notes what this process fetches."""

    def fetch(self, name: str, verifies: bool = True) -> Path:
        fetches.append(name)
        return super().fetch(name, verifies)


fetches: list[str] = []


def store_in(folder: Path, kind: str, made: type[CheckpointStore] = CheckpointStore) -> CheckpointStore:
    if kind == "local":
        return made(str(folder / "run"), run_id="mine")
    return made("run", pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem()), "mine")


def write(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        folder = store.begin(step)
        for name in (*STATES, "weights"):
            (folder / name).write_text(f"{name} {step}")
        store.seal(folder)


def damage(folder: Path, step: int) -> None:
    (folder / "run" / f"checkpoint-{step}" / "weights").write_text(f"Weights {step}")


def ranks(rank: int, folder: Path, kind: str) -> None:
    """Three ranks on two nodes; the newest checkpoint is damaged."""
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=rank, world_size=3)
    world = World(rank, 3, local_rank=rank % 2, node_rank=rank // 2)
    store = store_in(folder, kind, Counting)
    start = own_start(store, world)
    assert start is not None
    assert (start.name, start.manifest["step"]) == ("checkpoint-2", 2)
    assert (Path(str(start.path)) / "weights").read_text() == "weights 2"
    assert fetches == (["checkpoint-3", "checkpoint-2"] if world.local_rank == 0 else [])
    places: list[Any] = [None] * 3
    dist.all_gather_object(places, start.path)
    assert places[0] == places[1]
    assert (places[1] == places[2]) == store.is_local
    with pytest.raises(CheckpointError, match=r"checkpoint-3/weights is damaged: its hash"):
        fetch_on_node(store, "checkpoint-3", world)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_one_process_of_a_node_fetches(tmp_path: Path, kind: str) -> None:
    (tmp_path / "run").mkdir()
    write(store_in(tmp_path, kind), 1, 2, 3)
    damage(tmp_path, 3)
    run_ranks(ranks, tmp_path, kind, count=3)


def test_what_is_written_anew_is_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    store, writer = store_in(tmp_path, "remote"), store_in(tmp_path, "remote")
    write(writer, 1)
    first = store.fetch("checkpoint-1")
    (writer.begin(1) / "weights").write_text("others")
    writer.seal(writer.local / "checkpoint-1")
    assert (store.fetch("checkpoint-1") / "weights").read_text() == "others"
    store.drop("checkpoint-1")
    assert not first.exists()


def test_what_was_half_fetched_by_a_killed_process_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    store = store_in(tmp_path, "remote")
    write(store, 1)
    half = store.local / "fetched" / "checkpoint-1"
    half.mkdir(parents=True)
    (half / "weights").write_text("weig")
    assert (store.fetch("checkpoint-1") / "weights").read_text() == "weights 1"
