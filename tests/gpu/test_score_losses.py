"""Every loss over scores on a device: value and gradient as on the CPU, and the host waits for nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from pretended_device import Syncs
from ray_st.losses.parts import total
from ray_st.testing import TinyReranker
from ray_st.testing.score_loss_conformance import PairBatch
from ray_st.util.host_facts import with_host_facts
from ray_st.util.tensors import batch_to_device, to_device
from score_cases import CASES


def _made(name: str) -> tuple[Any, PairBatch]:
    case = CASES[name]
    loss = case.conformance.make(TinyReranker(case.num_labels).float())
    batch = PairBatch.of(case.conformance, loss)
    return loss, batch


def _step(loss: Any, batch: PairBatch, device: torch.device) -> torch.Tensor:
    (features,), labels = batch.inputs()
    features = batch_to_device(with_host_facts(features), device)
    if labels is not None:
        labels = to_device(labels if labels.dtype == torch.int64 else labels.float(), device)
    value = total(loss([features], labels))
    value.backward()
    return value.detach()


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str, device: torch.device) -> None:
    loss, batch = _made(name)
    wanted = _step(loss, batch, torch.device("cpu"))
    gradients = [weight.grad for weight in loss.parameters()]
    loss, batch = _made(name)
    loss.to(device)
    torch.testing.assert_close(_step(loss, batch, device).cpu(), wanted, rtol=1e-4, atol=1e-5)
    for weight, gradient in zip(loss.parameters(), gradients, strict=True):
        assert (weight.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(weight.grad.cpu(), gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_nothing(name: str, pretended: Syncs) -> None:
    loss, batch = _made(name)
    device = torch.device("cuda", 0)
    loss.to(device)
    _step(loss, batch, device)
    pretended.take()
    _step(loss, batch, device)
    assert pretended.take() == Counter()
