"""Two and three gloo processes against one: pools, gradients, and everything else that ranks say to each other."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from processes import run_ranks
from ray_st.training.distributed import collectives
from ray_st.training.distributed.collectives import ClusterGather, current_world
from ray_st.world import World

ROWS, WIDTH = 7, 3
COUNTS = [(4, 3), (7, 0), (0, 7), (1, 6)]
ARGS = types.SimpleNamespace(
    ddp_find_unused_parameters=False,
    ddp_broadcast_buffers=None,
    ddp_bucket_cap_mb=None,
    device=torch.device("cpu"),
)


def alone_or_with(rank: int, size: int, folder: str, task: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size, init_method=f"file://{folder}/meet")
    try:
        torch.save(task(rank, size), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def on_ranks(size: int, folder: Path, task: Any) -> list[Any]:
    """Runs a task in so many processes; what each returns."""
    run_ranks(alone_or_with, size, str(folder), task, count=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, ROWS, WIDTH, generator=generator, dtype=torch.float64))  # type: ignore[return-value]


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def ranking(mine: Tensor, pool: Tensor, offset: int) -> Tensor:
    """Cross entropy of each of my anchors over the pool's answers, mean over my rows."""
    scores = mine[:, 0] @ pool[:, 1].T
    return nn.functional.cross_entropy(scores, torch.arange(len(mine)) + offset)


def embed(encoder: nn.Module, columns: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([encoder(column) for column in columns], dim=1)


def whole() -> tuple[float, list[Tensor]]:
    encoder = model()
    rows = embed(encoder, batch())
    loss = ranking(rows, rows, 0)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in encoder.parameters()]  # type: ignore[union-attr]


def part(rank: int, counts: tuple[int, ...]) -> tuple[float, list[Tensor], Tensor, int]:
    """One step of one rank, as the loop does it."""
    encoder = model()
    step = collectives.reduce_gradients(Holder(encoder), ARGS)
    gather = ClusterGather()
    gather.share(counts)
    start = sum(counts[:rank])
    rows = slice(start, start + counts[rank]) if counts[rank] else slice(0, 1)  # a filler row
    seen: dict[str, Any] = {}

    def compute() -> Tensor:
        mine = embed(encoder, tuple(column[rows] for column in batch()))  # type: ignore[arg-type]
        pool, offset = gather(mine)
        seen.update(pool=pool.detach(), offset=offset)
        return (mine.sum() + pool.sum()) * 0 if gather.idle else ranking(mine, pool, offset)

    loss = step(compute) * counts[rank] * len(counts) / sum(counts)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in encoder.parameters()], seen["pool"], seen["offset"]  # type: ignore[union-attr]


class Holder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, compute: Any) -> Any:
        return compute()


def two_ranks(rank: int, size: int) -> dict[str, Any]:
    said: dict[str, Any] = {"steps": [part(rank, counts) for counts in COUNTS], "world": current_world()}
    said["sum"] = collectives.sum_over_ranks(torch.tensor([1.0, rank]))
    said["numbers"] = collectives.sum_of_numbers([0.5, rank, 2**40])
    said["objects"] = collectives.gather_objects({"rank": rank})
    said["first"] = collectives.broadcast_object(f"from {rank}")
    said["rows"] = collectives.gather_rows(torch.full((2, 1), rank), (2, 1))
    gather = ClusterGather()
    gather.share((1, 2))
    said["integers"] = gather(torch.full((rank + 1, 2), rank))
    said["half"] = gather(torch.full((rank + 1,), 0.5 * rank, dtype=torch.bfloat16))
    return said


def one_backend_each(rank: int, folder: str) -> None:
    """As on GPUs, with Gloo in NCCL's place: Gloo reduces tensors of GPUs, too."""
    pair = "cpu:gloo,cuda:gloo"
    dist.init_process_group(pair, rank=rank, world_size=2, init_method=f"file://{folder}/meet")
    said = {
        "numbers": collectives.sum_of_numbers([1.0, rank]),
        "objects": collectives.gather_objects(rank),
        "first": collectives.broadcast_object(rank),
        "step": part(rank, COUNTS[0]),
    }
    torch.save(said, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_backend_for_each_kind_of_device_says_the_same(said: list[dict[str, Any]], tmp_path: Path) -> None:
    run_ranks(one_backend_each, str(tmp_path))
    for rank, before in enumerate(said):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert (found["numbers"], found["objects"], found["first"]) == ([2, 1], [0, 1], 0)
        assert found["step"][0] == before["steps"][0][0]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), two_ranks)


@pytest.mark.parametrize("case", range(len(COUNTS)), ids=[str(counts) for counts in COUNTS])
@pytest.mark.slow
def test_the_mean_over_ranks_is_the_whole_batch_in_loss_and_gradient(
    said: list[dict[str, Any]], case: int
) -> None:
    loss, gradients = whole()
    steps = [rank["steps"][case] for rank in said]
    assert sum(step[0] for step in steps) / 2 == pytest.approx(loss, abs=1e-12)
    for step in steps:
        for mine, expected in zip(step[1], gradients, strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", range(len(COUNTS)), ids=[str(counts) for counts in COUNTS])
@pytest.mark.slow
def test_the_pool_is_the_whole_batch_on_every_rank_without_fillers(
    said: list[dict[str, Any]], case: int
) -> None:
    expected = embed(model(), batch()).detach()
    for rank, other in enumerate(said):
        _, _, pool, offset = other["steps"][case]
        torch.testing.assert_close(pool, expected, atol=1e-12, rtol=0)
        assert offset == sum(COUNTS[case][:rank])


@pytest.mark.slow
def test_ranks_know_and_tell_each_other(said: list[dict[str, Any]]) -> None:
    assert [other["world"] for other in said] == [World(0, 2), World(1, 2)]
    for other in said:
        assert other["sum"].tolist() == [2, 1]
        assert other["numbers"] == [1, 1, 2**41]
        assert other["objects"] == [{"rank": 0}, {"rank": 1}]
        assert other["first"] == "from 0"
        assert other["rows"].tolist() == [[0], [0], [1]]


@pytest.mark.slow
def test_rows_without_gradient_and_of_other_types_are_gathered(said: list[dict[str, Any]]) -> None:
    for rank, other in enumerate(said):
        pool, offset = other["integers"]
        assert pool.tolist() == [[0, 0], [1, 1], [1, 1]]
        assert pool.dtype == torch.int64
        assert offset == rank
        assert other["half"][0].tolist() == [0, 0.5, 0.5]


def test_a_process_on_its_own() -> None:
    assert current_world() == World()
    assert collectives.gather_objects("x") == ["x"]
    assert collectives.broadcast_object("x") == "x"
    rows = torch.ones(3, 2, requires_grad=True)
    assert collectives.sum_over_ranks(rows) is rows
    assert collectives.gather_rows(rows, (2,)).tolist() == [[1, 1], [1, 1]]
    gather = ClusterGather()
    gather.share((3,))
    pool, offset = gather(rows)
    assert pool is rows
    assert offset == 0
    assert not gather.idle
    step = Holder(model())
    assert collectives.reduce_gradients(step, ARGS) is step
