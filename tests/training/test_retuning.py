from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from ray_st.training.checkpoint.retuning import retune, settings_of

STEPS, DONE = 20, 9


def made(kind: str, rate: float, decay: float, beta: float) -> tuple[torch.nn.Linear, Any, Any]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias], "lr": rate / 2}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(beta, 0.99))
    return layer, optimizer, get_scheduler(kind, optimizer, num_warmup_steps=4, num_training_steps=STEPS)


def run(layer: torch.nn.Linear, optimizer: Any, scheduler: Any, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        layer(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt"])
def test_a_restored_optimizer_follows_the_arguments_of_now(kind: str) -> None:
    before = made(kind, 1e-2, 0.1, 0.9)
    run(*before, DONE)
    after = made(kind, 5e-3, 0.3, 0.8)
    settings = settings_of(after[1])
    after[1].load_state_dict(before[1].state_dict())
    after[2].load_state_dict(before[2].state_dict())
    retune(after[1], after[2], settings)
    expected = run(*made(kind, 5e-3, 0.3, 0.8), STEPS)[DONE:]
    assert after[2].get_last_lr() == pytest.approx(expected[0])
    assert run(*after, STEPS - DONE) == [pytest.approx(rates) for rates in expected]
    group = after[1].param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.3, (0.8, 0.99))
    assert after[1].state[after[0].weight]["step"] == STEPS  # what it remembers of the weights stays


def test_a_rate_that_follows_no_schedule_stays() -> None:
    before, after = made("reduce_lr_on_plateau", 1e-2, 0, 0.9), made("reduce_lr_on_plateau", 1e-2, 0.1, 0.9)
    settings = settings_of(after[1])
    before[1].param_groups[0]["lr"] = 1e-3
    after[1].load_state_dict(before[1].state_dict())
    retune(after[1], after[2], settings)
    assert after[1].param_groups[0]["lr"] == 1e-3
    assert after[1].param_groups[0]["weight_decay"] == 0.1
