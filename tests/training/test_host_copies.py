from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ray_st.training.checkpoint.host_copies import HostCopies


class Part(nn.Module):
    """A module as users write them, with weights in other places than torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.register_buffer("count", torch.zeros(1))
        self.also = [self.one, {"weight": self.two.weight}]
        self.tokenizer = object()
        self.renamed = self.weights  # a bound method, as accelerate and users put one on a module

    def weights(self) -> list[Tensor]:
        return [self.one.weight, self.one.bias, self.also[1]["weight"], self.count]


def test_a_copy_stays_as_it_is() -> None:
    part = Part()
    made = HostCopies().of(part)
    before = [weight.detach().clone() for weight in part.weights()]
    with torch.no_grad():
        for tensor in (*part.parameters(), *part.buffers()):
            tensor += 1
    for weights in (made.weights(), made.renamed()):
        assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert made.state_dict().keys() == part.state_dict().keys()
    assert made.two.weight is made.one.weight
    assert made.also[0] is made.one
    assert made.tokenizer is part.tokenizer
    assert isinstance(made.one.weight, nn.Parameter)


def test_what_is_not_trained_is_shared_and_what_changes_otherwise_copied() -> None:
    part, card = nn.Linear(2, 2), {"logs": [1]}
    made, kept = HostCopies().of((part, card), shared=[part.weight], copied=[card])
    card["logs"].append(2)
    assert made.weight is part.weight
    assert made.bias is not part.bias
    assert kept == {"logs": [1]}


def test_the_state_of_an_optimizer() -> None:
    part = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(part.parameters())
    states: list[Any] = []
    for _ in range(2):
        part(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        states.append(optimizer.state_dict())
        if len(states) == 1:
            made = HostCopies().of(states[0])
            before = {name: value.clone() for name, value in states[0]["state"][0].items()}
    assert made["param_groups"] == states[0]["param_groups"]
    assert all(torch.equal(made["state"][0][name], value) for name, value in before.items())
    assert not torch.equal(states[1]["state"][0]["exp_avg"], before["exp_avg"])


def test_memory_is_used_again_once_it_is_released() -> None:
    copies, values = HostCopies(), [torch.ones(3), torch.ones(3), torch.ones(2, 3).T]

    def places(made: list[Tensor]) -> set[int]:
        return {tensor.data_ptr() for tensor in made}

    first = copies.of(values)
    second = copies.of(values)
    assert not places(first) & places(second)
    copies.release()
    third = copies.of(values)
    assert places(third) < places(first) | places(second)
    assert third[2].stride() == values[2].stride()
    assert all(torch.equal(one, other) for one, other in zip(third, values, strict=True))
