"""Two gloo processes under DDP, each with its rows: losses and gradients are those of the whole batch on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_encoder import WORDS, TinyEncoder
from torch import nn

from ray_st import losses
from ray_st.losses.parts import total

MADE = {
    "plain": lambda model: losses.MultipleNegativesRankingLoss(model, gather_across_devices=True),
    "cached": lambda model: losses.CachedMultipleNegativesRankingLoss(
        model, mini_batch_size=2, gather_across_devices=True
    ),
    "tiled": lambda model: _tiled(
        losses.MultipleNegativesSymmetricRankingLoss(model, gather_across_devices=True)
    ),
    "gist": lambda model: losses.CachedGISTEmbedLoss(
        model, TinyEncoder(seed=1), 0.1, mini_batch_size=3, gather_across_devices=True
    ),
    "matryoshka": lambda model: losses.MatryoshkaLoss(model, MADE["cached"](model), [6, 3]),
    "tension": lambda model: losses.ContrastiveTensionLoss(model),
    "orthogonal": lambda model: losses.GlobalOrthogonalRegularizationLoss(model, gather_across_devices=True),
}
SHARES = (4, 3)


def _tiled(loss: Any) -> Any:
    loss.tile_scores = 10
    return loss


def _features() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, WORDS, (2, sum(SHARES), 5), generator=generator)
    return [{"input_ids": column, "attention_mask": torch.ones_like(column)} for column in ids]


def _made(name: str) -> Any:
    model = TinyEncoder()
    model.types.requires_grad_(False)  # not in use: DDP would wait for it
    return MADE[name](model).double()


def _gradients(loss: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in loss.named_parameters() if weight.grad is not None}


def _rank(rank: int, folder: str) -> None:
    import torch.distributed as dist

    from ray_st.training.collectives import ClusterGather
    from ray_st.training.step import Step

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
    features = [{key: value[mine] for key, value in column.items()} for column in _features()]
    found = {}
    for name in MADE:
        loss = _made(name)
        gather = ClusterGather()
        gather.share(SHARES)
        loss.bind(gather)
        step = nn.parallel.DistributedDataParallel(Step(loss.model, loss))
        for _ in range(2):  # the second backward fails if the first was not reduced once and wholly
            step.zero_grad()
            value = step(lambda loss=loss: total(loss(features))) * SHARES[rank] * 2 / sum(SHARES)
            value.backward()
        found[name] = value.detach(), _gradients(loss)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_value_and_gradient_are_those_of_one_process(tmp_path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in MADE:
        loss = _made(name)
        whole = total(loss(_features()))
        whole.backward()
        torch.testing.assert_close(
            (ranks[0][name][0] + ranks[1][name][0]) / 2, whole.detach(), rtol=1e-10, atol=1e-10
        )
        wanted = _gradients(loss)
        for rank in ranks:
            assert rank[name][1].keys() == wanted.keys()
            for weight, gradient in wanted.items():
                torch.testing.assert_close(rank[name][1][weight], gradient, rtol=1e-10, atol=1e-10)
