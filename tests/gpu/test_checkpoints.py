"""Checkpoints of a run on a device: read by a machine without one, and resumed to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

SAVING = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Sums in a fixed order, also on a GPU."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def with_dropout(model: Any) -> Any:
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.3
    return model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("deterministic")
def test_a_resumed_run_is_equal_to_the_bit_with_dropout(
    device: torch.device, tiny: Any, loop: Any, tmp_path: Path
) -> None:
    whole = loop(with_dropout(tiny("cpu")), tmp_path / "whole", **SAVING)
    whole.train()
    resumed = loop(with_dropout(tiny("cpu")), tmp_path / "resumed", **SAVING)
    torch.manual_seed(99)  # of another process
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.args.device == device
    found, expected = (weights(tmp_path / name / "checkpoint-6") for name in ("resumed", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    without = loop(tiny("cpu"), tmp_path / "without", **SAVING)
    without.train()
    plain = weights(tmp_path / "without" / "checkpoint-6")
    assert not all(torch.equal(plain[name], expected[name]) for name in expected)  # dropout had an effect


def test_files_hold_nothing_of_the_device(device: torch.device, tiny: Any, loop: Any, tmp_path: Path) -> None:
    loop(tiny("cpu"), tmp_path, **SAVING).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        found = torch.load(tmp_path / "checkpoint-2" / name, weights_only=False)
        assert tensors_in(found) == {"cpu"} or name == "scheduler.pt"


def tensors_in(value: Any) -> set[str]:
    if isinstance(value, torch.Tensor):
        return {value.device.type}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return set().union(*map(tensors_in, parts))


def test_the_best_model_is_loaded_onto_the_device(
    device: torch.device, tiny: Any, loop: Any, tmp_path: Path
) -> None:
    best = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,  # the first
    }
    running = loop(tiny("cpu"), tmp_path, **{**SAVING, "save_steps": 1}, **best)
    running.train()
    assert running.state.best_global_step == 1
    first = weights(tmp_path / "checkpoint-1")
    for name, weight in running.model[0].auto_model.named_parameters():
        assert weight.device == device
        assert torch.equal(weight.detach().cpu(), first[name])
