"""Training runs of one of several gloo processes, with sharded weights (FSDP) or whole ones (DDP)."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from torch import nn

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
)
from ray_st.training.data.local_source import local_context
from ray_st.training.strategies.step_module import owned_by_loss
from ray_st.training.trainer_spec import train_task
from ray_st.world import World

ROWS = 13  # of global batches of 4: the last one leaves a rank without a row
TEXTS = {
    "a": [f"one {i} " * (1 + i % 5) for i in range(ROWS)],
    "b": [f"two {i * i} " * (1 + i * 7 % 4) for i in range(ROWS)],
}
PAIRS = Dataset.from_dict(TEXTS)
SCORED = Dataset.from_dict({**TEXTS, "score": [i * 7 % 11 / 10 for i in range(ROWS)]})
CLASSES = Dataset.from_dict({**TEXTS, "label": [i % 3 for i in range(ROWS)]})


def ranking(model: Any) -> Any:
    return MultipleNegativesRankingLoss(model, gather_across_devices=True)


def classes(model: Any) -> Any:
    return SoftmaxLoss(model, 32, 3)


def cached(model: Any) -> Any:
    return CachedMultipleNegativesRankingLoss(model, mini_batch_size=1, gather_across_devices=True)


def small_calls(model: Any) -> Any:
    loss = ranking(model)
    loss.token_budget = 8
    return loss


class Runs:
    """Trains as one of several ranks, again and again."""

    model_class: Any = SentenceTransformer
    trainer_class: Any = SentenceTransformerTrainer

    def __init__(self, world: World, folder: str, model: str) -> None:
        self.world, self.folder, self.model = world, folder, model

    def trainer(self, name: str, loss: Any, rows: Any, fsdp: bool, **options: Any) -> Any:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # one for a process, and a process has one trainer
        GradientState._reset_state()
        torch.manual_seed(3)
        model = self.model_class(self.model, device="cpu")
        model.to(options.pop("stored", torch.float32))
        if options.pop("adapted", False):
            from peft import LoraConfig

            model.add_adapter(LoraConfig(target_modules=["query", "value"], r=4, lora_dropout=0.0))
        if options.pop("unused", False):
            model[0].auto_model.mask_emb = nn.Parameter(torch.zeros(3))
        config = options.pop("config", None)
        if fsdp:
            options |= {"fsdp": True, "fsdp_config": config}
        given = {
            key: options.pop(key) for key in ("eval_dataset", "evaluator", "callbacks") if key in options
        }
        defaults = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "learning_rate": 0.001}
        quiet = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "num_train_epochs": 1}
        folder = f"{self.folder}/{name}-{fsdp}"
        args = SentenceTransformerTrainingArguments(folder, **{**defaults, **quiet, **options})
        driver = self.trainer_class(model, args, train_dataset=rows, loss=loss, **given)
        parts = {**driver.data.train_specs(self.world.size)}
        if "eval_dataset" in given:
            parts |= driver.data.eval_specs(self.world.size)
        return driver.spec().rebuild(local_context(parts, folder, self.world))

    def run(self, *given: Any, times: int = 1, resume: str | None = None, **options: Any) -> Any:
        """Final weights, and the figures of all steps and evaluations."""
        trainer = self.trainer(*given, **options)
        for _ in range(times):
            train_task(trainer, resume)
        logs = [
            {
                name: value
                for name, value in entry.items()
                if any(part in name for part in ("loss", "norm", "sts", "cosine"))
            }
            for entry in trainer.state.log_history
            if "train_loss" not in entry  # the mean over the steps since resuming
        ]
        best = Path(trainer.state.best_model_checkpoint or "").name
        weights = {
            **{name: value.detach().clone() for name, value in trainer.model.state_dict().items()},
            **{f"loss/{name}": value for name, value in owned_by_loss(trainer.model, trainer.loss).items()},
        }
        return {"weights": weights, "logs": logs, "best": best}


def join(rank: int, size: int, folder: str) -> None:
    """Joins the process group of a test."""
    logging.disable(logging.WARNING)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}  # as Ray does
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, not used
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        rank=rank,
        world_size=size,
        init_method=f"file://{folder}/meet",
        timeout=timedelta(seconds=60),
    )


def with_gradients(run: Any) -> dict[str, torch.Tensor]:
    """The weights without the biases of keys, which add the same to all scores that a softmax compares.

    Their gradient is 0 and what is found of it rounding noise, which Adam makes as large as any gradient.
    """
    return {name: tensor for name, tensor in run["weights"].items() if not name.endswith("key.bias")}


def assert_equal(found: Any, expected: Any) -> None:
    mine, theirs = map(with_gradients, (found, expected))
    for name, tensor in theirs.items():  # what is rounded to bfloat16 in the end may fall to either side
        close = 1e-2 if tensor.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(mine[name], tensor, rtol=close, atol=1e-5)
    assert mine.keys() == theirs.keys()
    assert len(found["logs"]) == len(expected["logs"])
    for mine, theirs in zip(found["logs"], expected["logs"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert found["best"] == expected["best"]


def distances(run: Any, other: Any) -> torch.Tensor:
    """How far weights, losses and gradient norms of two runs are apart: the largest absolute difference of each kind."""
    mine, theirs = map(with_gradients, (run, other))
    weights = max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)
    logs = list(zip(run["logs"], other["logs"], strict=True))
    return torch.tensor(
        [weights, *(max(abs(one[name] - two[name]) for one, two in logs) for name in ("loss", "grad_norm"))]
    )
