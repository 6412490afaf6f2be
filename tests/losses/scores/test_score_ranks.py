"""Two gloo processes, each with its rows: losses over scores and gradients are those of the whole batch."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from processes import run_ranks
from ray_st.losses.parts import total
from ray_st.testing import TinyReranker
from ray_st.testing.loss_conformance import ROWS, take_path
from ray_st.testing.score_loss_conformance import PairBatch
from score_cases import CASES

SHARES = (7, 5)
PATHS: dict[str, dict[str, int]] = {
    "plain": {},
    "fast": {"mini_batch_size": 3, "token_budget": 30, "tile_scores": 25},
}


def _made(name: str, path: str) -> Any:
    """A loss in double precision, on one of the paths."""
    model = TinyReranker(CASES[name].num_labels)
    model.encoder.types.requires_grad_(False)  # not in use: DDP would wait for it
    loss = CASES[name].conformance.build(model)
    take_path(loss, **PATHS[path])
    return loss


def _gradients(loss: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in loss.named_parameters() if weight.grad is not None}


def _rank(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {(name, path): _step(name, path, rank) for name in CASES for path in PATHS}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _step(name: str, path: str, rank: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    from ray_st.training.distributed.collectives import ClusterGather, reduce_gradients
    from ray_st.training.strategies.step_module import Step

    loss = _made(name, path)
    batch = PairBatch.of(CASES[name].conformance, loss)
    batch = batch.rows(slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None))
    gather = ClusterGather()
    gather.share(SHARES)
    loss.bind(gather)
    args: Any = types.SimpleNamespace(
        ddp_find_unused_parameters=None,
        ddp_broadcast_buffers=None,
        ddp_bucket_cap_mb=None,
        device=torch.device("cpu"),
    )
    step = reduce_gradients(Step(loss.model, loss), args)
    for _ in range(2):  # the second backward fails if the first was not reduced once and wholly
        step.zero_grad()
        value = step(lambda: total(loss(*batch.inputs()))) * SHARES[rank] * 2 / ROWS
        value.backward()
    return value.detach(), _gradients(loss)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(_rank, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_one_process(name: str, path: str, ranks: list[Any]) -> None:
    loss = _made(name, "plain")
    whole = total(loss(*PairBatch.of(CASES[name].conformance, loss).inputs()))
    whole.backward()
    mine = [rank[name, path] for rank in ranks]
    torch.testing.assert_close((mine[0][0] + mine[1][0]) / 2, whole.detach(), rtol=1e-10, atol=1e-10)
    wanted = _gradients(loss)
    for _, gradients in mine:
        assert gradients.keys() == wanted.keys()
        for weight, gradient in wanted.items():
            torch.testing.assert_close(gradients[weight], gradient, rtol=1e-10, atol=1e-10)
