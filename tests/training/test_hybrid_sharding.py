"""Four gloo processes as two nodes of two: single tensors, and a run whose shards lie within a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from processes import run_ranks
from ray_st.training.strategies.sharding.mesh import make_mesh, ranks_by_node
from ray_st.training.strategies.sharding.shard_tensors import own_shard, scattered, whole_tensor
from ray_st.world import World
from sharded_runs import PAIRS, Runs, assert_equal, cached, join, small_calls

CPU = torch.device("cpu")
SHAPES = [(9, 2), (4,), (5, 3), (1, 2), (2,)]  # of which some ranks have fewer rows than others, or none
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cached": (cached, {}),
    "accumulated": (small_calls, {"gradient_accumulation_steps": 2}),
}


def sharded_alike(mesh: Any, rank: int) -> list[bool]:
    """Whether shards are those that PyTorch makes, of the first rank's values where ranks differ."""
    found = []
    for shape in SHAPES:
        whole = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
        places = [Shard(0)] if mesh.ndim == 1 else [Replicate(), Shard(0)]
        expected = distribute_tensor(whole, mesh, places)
        empty = DTensor.from_local(
            expected.to_local().to("meta"), mesh, places, shape=whole.shape, stride=whole.stride()
        )
        own = own_shard(whole, empty, CPU, torch.bfloat16)
        sent = scattered(whole if rank == 0 else whole + 1, empty, CPU, torch.float64)
        found += [
            own.dtype == torch.bfloat16,
            sent.dtype == torch.float64,
            torch.equal(own.to_local(), expected.to_local().bfloat16()),
            torch.equal(sent.to_local(), expected.to_local().double()),
            torch.equal(whole_tensor(sent), whole.double()),
        ]
    return found


def work(rank: int, size: int, folder: str, model: str) -> None:
    join(rank, size, folder)
    world = World(rank, size, local_rank=rank % 2, node_rank=rank // 2)
    runs = Runs(world, folder, model)
    found: dict[str, Any] = {}
    for hybrid in (False, True):
        mesh = make_mesh(CPU, world, hybrid)
        found[f"shards {hybrid}"] = mesh.mesh.tolist(), sharded_alike(mesh, rank)
    for name, (loss, options) in RUNS.items():
        given = {"global_train_batch_size": 4, "config": {"sharding_strategy": "HYBRID_SHARD"}, **options}
        for fsdp in (False, True):
            found[f"{name} {fsdp}"] = runs.run(name, loss, PAIRS, fsdp, **given)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hybrid")
    run_ranks(work, 4, str(folder), str(tiny_folder), count=4)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(4)]


@pytest.mark.slow
def test_each_rank_has_its_rows(ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["shards False"] == ([0, 1, 2, 3], [True] * 5 * len(SHAPES))
        assert rank["shards True"] == ([[0, 1], [2, 3]], [True] * 5 * len(SHAPES))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_shards_within_nodes_train_like_whole_weights(name: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert_equal(rank[f"{name} True"], rank[f"{name} False"])


def test_nodes_have_the_same_number_of_ranks() -> None:
    assert ranks_by_node([0, 1, 0, 1]) == [[0, 2], [1, 3]]
    assert ranks_by_node([0, 0]) == [[0, 1]]
    for nodes, found in (([0, 0, 1], r"\[2, 1\]"), ([0, 1, 2], r"\[1, 1, 1\]")):
        with pytest.raises(ValueError, match=f"the nodes have {found}"):
            ranks_by_node(nodes)


def test_other_values_are_whole() -> None:
    tensor: Tensor = torch.ones(2)
    assert whole_tensor(tensor) is tensor
    assert whole_tensor(3) == 3
