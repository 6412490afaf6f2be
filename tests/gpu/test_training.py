"""A worker's loop on a device: steps, evaluations, and what is sent to the driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ray_st.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss, MultipleNegativesRankingLoss

LOSSES: dict[str, Callable[[Any], nn.Module]] = {
    "plain": MultipleNegativesRankingLoss,
    "cached": lambda model: CachedMultipleNegativesRankingLoss(model, mini_batch_size=3),
    "modified": lambda model: MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [32, 8]),
}
EVALUATING = {"eval_strategy": "steps", "eval_steps": 1}


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What a function returns where workers have no device."""

    def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            return function(*args, **options)

    return call


@pytest.mark.parametrize("kind", LOSSES)
def test_a_run_is_that_of_the_cpu(
    kind: str, device: torch.device, tiny: Any, loop: Any, on_cpu: Any, tmp_path: Path
) -> None:
    def run(name: str, **arguments: Any) -> Any:
        given = {**EVALUATING, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5, **arguments}
        running = loop(tiny("cpu"), tmp_path / name, loss=LOSSES[kind], num_train_epochs=2, **given)
        running.train()
        return running

    expected = on_cpu(run, "cpu", use_cpu=True)
    found = run("device")
    assert (expected.args.device.type, found.args.device) == ("cpu", device)
    assert {weight.device for weight in found.model.parameters()} == {device}
    timing = ("runtime", "per_second")
    for mine, other in zip(found.state.log_history, expected.state.log_history, strict=True):
        assert mine.keys() == other.keys()
        for name in mine.keys() - {name for name in mine if name.endswith(timing)}:
            assert mine[name] == pytest.approx(other[name], abs=1e-3), name
    for mine, other in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(mine.detach().cpu(), other.detach(), rtol=1e-3, atol=1e-4)


class Iterates(nn.Module):
    """A loss of a user's own that expects nothing but tensors on the device among the features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor | None) -> torch.Tensor:
        weight = next(self.model.parameters())
        for column in features:
            assert {value.device for value in column.values()} == {weight.device}
        one, two = (self.model(column)["sentence_embedding"] for column in features)
        return (one - two).square().mean()


def test_a_loss_of_ones_own_gets_tensors_on_the_device(
    device: torch.device, tiny: Any, loop: Any, tmp_path: Path
) -> None:
    running = loop(tiny("cpu"), tmp_path, loss=Iterates, **EVALUATING)
    running.train()
    assert all("loss" in entry or "eval_loss" in entry for entry in running.state.log_history[:4])
