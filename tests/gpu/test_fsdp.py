"""Sharded weights in a group of one, which shards nothing but goes every way: the run is the plain one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from processes import run_ranks
from ray_st import SentenceTransformer
from ray_st.losses import CachedMultipleNegativesRankingLoss
from ray_st.training.strategies.sharded import Sharded

from .conftest import make_loop

SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}


def _trained(rank: int, backend: str, folder: Path, model: Path) -> None:
    dist.init_process_group(backend, init_method=f"file://{folder / 'group'}", rank=rank, world_size=1)
    for name in ("plain", "sharded"):
        running = make_loop(
            SentenceTransformer(model, device="cpu"),
            folder / name,
            loss=lambda model: CachedMultipleNegativesRankingLoss(model, mini_batch_size=3),
            use_cpu=backend == "gloo",
            fsdp=name == "sharded",
            **SAVING,
        )
        if name == "sharded":
            running.strategy = Sharded(running.args, running.worker.world)
        running.train()
        assert running.args.device.type == ("cpu" if backend == "gloo" else "cuda")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "backend", [pytest.param("nccl", marks=pytest.mark.gpu), pytest.param("gloo", marks=pytest.mark.slow)]
)
def test_a_sharded_run_is_the_plain_one(backend: str, tiny_folder: Path, tmp_path: Path) -> None:
    if backend == "nccl" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch.cuda.is_available() is False")
    run_ranks(_trained, backend, tmp_path, tiny_folder, count=1)
    for step in (2, 3):
        plain, sharded = (
            load_file(tmp_path / name / f"checkpoint-{step}" / "model.safetensors")
            for name in ("plain", "sharded")
        )
        assert plain.keys() == sharded.keys()
        for name, tensor in plain.items():
            torch.testing.assert_close(sharded[name], tensor, rtol=1e-3, atol=1e-4)
