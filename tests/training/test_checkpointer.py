"""Checkpoints whose files come from every rank, and what ranks learn of one that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch.distributed as dist
from transformers import TrainerState

from processes import run_ranks
from ray_st.training.checkpoint import lease
from ray_st.training.checkpoint.checkpointer import Checkpointer, Rotation, Snapshot, no_files
from ray_st.training.checkpoint.lease import Fence, Holder
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.strategies.sharding.weight_parts import WeightParts
from ray_st.util.endings import LeaseLost
from ray_st.world import World


def store_in(folder: Path, kind: str) -> CheckpointStore:
    if kind == "local":
        return CheckpointStore(str(folder / "run"), run_id="mine")
    bucket = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    return CheckpointStore("run", bucket, "mine")


def parts(rank: int, folder: Path, kind: str) -> None:
    """Two ranks write a part each at step 1; one of them cannot at step 2, and makes a mistake at step 3."""
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=rank, world_size=2)
    store, state = store_in(folder, kind), TrainerState()
    checkpointer = Checkpointer(store, World(rank, 2), all_write=True)

    def write(into: Path) -> WeightParts:
        (into / "part").mkdir()
        (into / "part" / f"{rank}.bin").write_text(str(rank))
        if rank == 1 and state.global_step > 1:
            raise OSError(28, "No space left") if state.global_step == 2 else LookupError("a mistake")
        return {}

    found: list[Any] = []
    for step in (1, 2, 3):
        state.global_step = step
        checkpointer.begin(Snapshot(step, write, {"rank": rank}), Rotation())
        dist.barrier()  # training communicates meanwhile
        try:
            found.append(checkpointer.settle(state).checkpoint)
        except Exception as error:  # noqa: BLE001
            found.append(error)
    assert found[0].manifest["rank"] == 0
    assert found[0].manifest["files"].keys() == {"part/0.bin", "part/1.bin"}
    assert found[1] is None
    assert isinstance(found[2], RuntimeError if rank == 0 else LookupError)
    assert "a mistake" in str(found[2])
    assert checkpointer.newest == 1
    if rank == 0:
        assert store.check("checkpoint-1") == found[0]
        assert 2 not in store.steps()
        assert sorted(file.name for file in (folder / "run" / "checkpoint-1").iterdir()) == [
            "manifest.json",
            "part",
        ]
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_each_rank_writes_its_part(tmp_path: Path, kind: str) -> None:
    (tmp_path / "run").mkdir()
    run_ranks(parts, tmp_path, kind)


def taken(rank: int, folder: Path) -> None:
    """Only the first rank has files; another driver takes the folder before the second checkpoint."""
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=rank, world_size=2)
    store = store_in(folder, "local")
    checkpointer = Checkpointer(
        replace(store, fence=Fence(store.path, store.filesystem, "me")), World(rank, 2)
    )
    checkpointer.begin(Snapshot(1, no_files, {}), Rotation())
    assert checkpointer.settle(TrainerState()).checkpoint.step == 1  # type: ignore[union-attr]
    dist.barrier()
    if rank == 0:
        lease.write(store, Holder("other", "elsewhere", 1))
    checkpointer.begin(Snapshot(2, no_files, {}), Rotation())
    with pytest.raises(LeaseLost, match="was taken by process 1 on elsewhere"):
        checkpointer.settle(TrainerState())
    dist.destroy_process_group()


def test_every_rank_learns_that_the_folder_was_taken(tmp_path: Path) -> None:
    run_ranks(taken, tmp_path)


def test_a_discarded_best_checkpoint_is_not_named_the_best(tmp_path: Path) -> None:
    store, state = store_in(tmp_path, "local"), TrainerState()
    checkpointer = Checkpointer(store, World())

    def full(into: Path) -> WeightParts:
        raise OSError(28, "No space left")

    for step, write in ((1, no_files), (2, full)):
        state.best_global_step = step
        before = state.best_model_checkpoint
        checkpointer.name_best(state, step)
        checkpointer.begin(Snapshot(step, write, {}), Rotation(), before)
        checkpointer.settle(state)
    assert state.best_model_checkpoint == store.location("checkpoint-1")


def test_closing_waits_for_what_is_being_written(tmp_path: Path) -> None:
    store = store_in(tmp_path, "local")
    checkpointer = Checkpointer(store, World())
    checkpointer.begin(Snapshot(1, no_files, {}), Rotation())
    checkpointer.on_close(TrainerState(), failed=True)
    assert store.newest().step == 1  # type: ignore[union-attr]
