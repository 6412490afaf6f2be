from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_st import losses
from ray_st.training.callbacks import run_header
from ray_st.training.callbacks.run_header import computing, header, note_on_precision, starting, subject
from ray_st.training.data.dataset_specs import negatives_pool
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.world import WorkerRange


def test_the_subject_names_model_size_and_losses(tiny_model: Any) -> None:
    loss = losses.CoSENTLoss(tiny_model)
    said = subject(tiny_model, {"a": loss, "b": losses.SoftmaxLoss(tiny_model, 32, 3), "c": loss})
    assert said.startswith("SentenceTransformer(Transformer, Pooling), ")
    assert said.endswith("K weights; CoSENTLoss, SoftmaxLoss")


def test_the_subject_counts_what_is_trained(tiny_model: Any) -> None:
    for weight in tiny_model.parameters():
        weight.requires_grad_(False)
    assert ", 0 of them trained weights;" in subject(tiny_model, losses.CoSENTLoss(tiny_model))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "evaluation: none; checkpoints: every 500 steps"),
        (
            {"eval_strategy": "steps", "eval_steps": 0.1, "save_strategy": "no"},
            "evaluation: every 10% of all steps; checkpoints: none",
        ),
        (
            {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "loss"},
            "evaluation: every epoch; checkpoints: best",
        ),
    ],
)
def test_the_header(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    args = SentenceTransformerTrainingArguments(str(tmp_path), **arguments)
    lines = header(args, "sts", "/runs/sts", "a model")
    assert lines == ["run sts: a model", "folder: /runs/sts", said]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "float32"),
        ({"bf16": True}, "bfloat16 autocast"),
        ({"fp16": True}, "float16 autocast with scaled losses"),
        ({"tf32": True}, "float32 (TF32 products)"),
    ],
)
def test_the_precision(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    args = SentenceTransformerTrainingArguments(str(tmp_path), **arguments)
    assert computing(args).rpartition(", ")[2] == said


@pytest.mark.parametrize(
    ("device", "arguments", "capability", "says"),
    [
        ("cuda", {}, (9, 0), True),
        ("cuda", {"bf16": True}, (9, 0), False),
        ("cuda", {"fp16": True}, (9, 0), False),
        ("cuda", {"tf32": True}, (9, 0), False),
        ("cuda", {}, (7, 5), False),
        ("cpu", {}, (9, 0), False),
    ],
)
def test_a_gpu_that_could_do_more_is_named(
    device: str,
    arguments: dict[str, Any],
    capability: tuple[int, int],
    says: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    args: Any = SimpleNamespace(device=device, **{"bf16": False, "fp16": False, "tf32": None, **arguments})
    note = note_on_precision(args)
    assert ("bf16=True" in note and "tf32=True" in note) if says else not note


def test_a_process_that_uses_tf32_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(run_header, "_rounds_products", lambda: True)
    assert not note_on_precision(SimpleNamespace(device="cuda", bf16=False, fp16=False, tf32=None))  # type: ignore


def test_what_is_started() -> None:
    assert starting(WorkerRange(1, 1), {"CPU": 1}).startswith("starting 1 worker with CPU 1; ")
    assert starting(WorkerRange(8, 8), {"GPU": 1, "CPU": 0.5}).startswith(
        "starting 8 workers, each with GPU 1, CPU 0.5; "
    )
    assert starting(WorkerRange(1, 4), {"CPU": 1}).startswith("starting 1 to 4 workers, each with CPU 1; ")


@pytest.mark.parametrize(
    ("name", "options", "pool"),
    [
        ("CoSENTLoss", {}, None),
        ("MultipleNegativesRankingLoss", {}, 11),
        ("MultipleNegativesRankingLoss", {"gather_across_devices": True}, 32),
        ("CachedMultipleNegativesSymmetricRankingLoss", {}, 11),
    ],
)
def test_where_in_batch_negatives_come_from(
    tiny_model: Any, name: str, options: dict[str, bool], pool: int | None
) -> None:
    assert negatives_pool(getattr(losses, name)(tiny_model, **options), batch_size=32, world_size=3) == pool
