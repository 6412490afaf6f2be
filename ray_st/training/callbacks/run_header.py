"""The first lines of a run: its model, folder, intervals of evaluations and checkpoints, and hardware."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import torch
from torch import nn
from transformers import IntervalStrategy, TrainingArguments

from ray_st.training.strategies.step_module import LossOrLosses, losses_of
from ray_st.world import WorkerRange


def subject(model: nn.Module, loss: LossOrLosses) -> str:
    """A description of what is trained: the model's kind and size, and the losses' names.

    Args:
        model: The model.
        loss: One loss, or one for each dataset name.
    """
    values = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    size = _short(values) if trained == values else f"{_short(values)}, {_short(trained)} of them trained"
    parts = ", ".join(type(part).__name__ for part in model.children())
    losses = ", ".join(dict.fromkeys(type(part).__name__ for part in losses_of(loss).values()))
    return f"{type(model).__name__}({parts}), {size} weights; {losses}"


def header(args: TrainingArguments, run: str, folder: str, what: str) -> list[str]:
    """A description of a run, one fact per line, logged before its data are read.

    Args:
        args: Training arguments.
        run: Name of the run.
        folder: Where its checkpoints are kept.
        what: See :func:`subject`.
    """
    return [
        f"run {run}: {what}",
        f"folder: {folder}",
        f"evaluation: {_how_often(args.eval_strategy, args.eval_steps)}; "
        f"checkpoints: {_how_often(args.save_strategy, args.save_steps)}",
    ]


def starting(workers: WorkerRange, each: Mapping[str, float]) -> str:
    """A line about what happens once the data are ready.

    Args:
        workers: Number of workers.
        each: Resources of each, by name.
    """
    resources = ", ".join(f"{name} {amount:g}" for name, amount in each.items())
    many = f"{workers} workers, each" if workers.most > 1 else "1 worker"
    return f"starting {many} with {resources}; the first step usually follows within 10 to 20 seconds"


def computing(args: TrainingArguments) -> str:
    """The compute settings of this process: device, threads, precision."""
    device = torch.device(args.device)
    precision = "bfloat16 autocast" if args.bf16 else "float32"
    if args.fp16:
        precision = "float16 autocast with scaled losses"
    if args.tf32:
        precision += " (TF32 products)"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}, {precision}"


def note_on_precision(args: TrainingArguments) -> str:
    """A note on a GPU that has faster products than the run uses; empty if there is nothing to say."""
    device = torch.device(args.device)
    if device.type != "cuda" or args.bf16 or args.fp16 or args.tf32 or _rounds_products():
        return ""
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return ""
    return (
        "precision: float32 leaves this GPU's tensor cores idle, whose peak rate is several times as high: "
        "bf16=True computes in bfloat16, tf32=True rounds only the factors of products"
    )


_AMPERE = (8, 0)
"""The first compute capability with products in TF32 and bfloat16."""


def _rounds_products() -> bool:
    """Whether the process was told to use TF32."""
    matmul = torch.backends.cuda.matmul
    # Since torch 2.9 the older name raises once the newer one was used.
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def _how_often(strategy: str | IntervalStrategy, steps: float | None) -> str:
    name = str(strategy.value) if isinstance(strategy, Enum) else strategy
    if name == "steps" and steps:
        return f"every {steps:g} steps" if steps >= 1 else f"every {steps:.0%} of all steps"
    return {"no": "none", "epoch": "every epoch"}.get(name, name)


def _short(number: int) -> str:
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
