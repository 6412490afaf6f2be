"""Nothing of a device leaves its process: what workers send lies in main memory."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from ray_st.training.distributed.evaluator_team import RankTeam
from ray_st.training.trainer_spec import evaluate_task, predict_task, train_task
from ray_st.util.tensors import on_host


def devices_in(value: object) -> set[str]:
    """The kinds of devices of all tensors in a value."""
    if isinstance(value, torch.Tensor):
        return {value.device.type}
    inner: list[object] = list(value.values() if isinstance(value, Mapping) else ())
    inner += value if isinstance(value, (list, tuple)) else ()
    inner += vars(value).values() if hasattr(value, "__dict__") else ()
    return set().union(*map(devices_in, inner))


class Keeps(TrainerCallback):
    """Keeps what a user might: tensors, and a module that was trained."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weight = next(kwargs["model"].parameters())
        self.seen = {"sums": [weight.detach().sum()], "weight": weight}
        self.same = self.seen["sums"]
        self.unsendable = (step for step in ())


def test_results_of_a_worker(device: torch.device, tiny: Any, loop: Any, tmp_path: Path) -> None:
    options = {"eval_strategy": "epoch", "include_for_metrics": ["inputs", "loss"]}
    running = loop(tiny("cpu"), tmp_path, callbacks=[Keeps()], **options)
    results = [train_task(running, None), evaluate_task(running, None), predict_task(running, None)]
    assert next(running.model.parameters()).device == device
    for result in results:
        assert devices_in(result) <= {"cpu"}
        pickle.dumps(result)
    (attributes,) = results[0].callbacks
    assert attributes.keys() == {"seen", "same"}
    assert attributes["same"] is attributes["seen"]["sums"]


def test_a_copy_in_main_memory(device: torch.device) -> None:
    layer = nn.Linear(2, 2).to(device)
    layer.bias.requires_grad_(False)
    rows = torch.ones(2, 2, device=device)
    found = on_host({"layer": layer, "again": layer, "rows": [rows, layer(rows)], "text": "none"})
    assert devices_in(found) == {"cpu"}
    assert found["again"] is found["layer"]
    assert isinstance(found["layer"].weight, nn.Parameter)
    assert [weight.requires_grad for weight in found["layer"].parameters()] == [True, False]
    torch.testing.assert_close(found["rows"][1], layer(rows).detach().cpu(), check_device=False)
    assert layer.weight.device == device


def test_a_value_without_tensors_of_a_device_is_copied_as_usual() -> None:
    tied = torch.ones(3)
    found = on_host([tied, tied, {"a": 1}])
    assert found[0] is found[1]
    assert found[2] == {"a": 1}
    with pytest.raises(TypeError, match="generator"):
        on_host(one for one in ())


def test_what_ranks_tell_each_other(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def gather(value: Any) -> list[Any]:
        sent.append(value)
        return [pickle.loads(pickle.dumps(value))]

    monkeypatch.setattr("ray_st.training.distributed.evaluator_team.gather_objects", gather)
    value = [torch.ones(2, device=device), {"score": torch.zeros(1, device=device)}]
    (found,) = RankTeam(0, 1, device).gather(value)
    assert devices_in(sent) == {"cpu"}
    assert (found[0].device, found[1]["score"].device) == (device, device)
