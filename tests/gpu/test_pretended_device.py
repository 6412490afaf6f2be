"""The pretended device behaves like a GPU, and leaves nothing behind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pretended_device import DEVICE, TO_DEVICE, TO_HOST, DeviceTensor, MixedDevices, Syncs, pretended_device


def test_nothing_of_it_is_left() -> None:
    def answers() -> list[Any]:
        return [torch.cuda.is_available(), torch.cuda.device_count(), torch.accelerator.is_available()]

    before, state = answers(), torch.get_rng_state()
    with pretended_device():
        assert torch.cuda.is_available()
        tensor = torch.rand(3, device="cuda")
        torch.manual_seed(5)
    assert answers() == before
    torch.set_rng_state(state)
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, NotImplementedError), match="CUDA"):
            torch.zeros(1, device="cuda")
    with pytest.raises(AssertionError, match="a pretended device that is gone"):
        tensor + 1
    layer = nn.Linear(2, 2)
    assert type(layer.half().weight) is nn.Parameter


def test_tensors_say_where_they_are(pretended: Syncs) -> None:
    made = [
        torch.zeros(2, device="cuda"),
        torch.tensor([1.0, 2.0], device=DEVICE),
        torch.as_tensor([1, 2], device="cuda:0"),
        torch.ones(2).cuda(),
        torch.ones(2).to(DEVICE, torch.float16),
        torch.arange(2, device=torch.zeros(1, device="cuda").device),
        torch.rand(2, device="cuda").new_zeros(2),
    ]
    assert all(isinstance(one, DeviceTensor) for one in made)
    assert {(one.device, one.is_cuda, one.get_device()) for one in made} == {(DEVICE, True, 0)}
    assert {one.cpu().device.type for one in made} == {"cpu"}
    assert made[1].tolist() == [1.0, 2.0]


def test_modules_move_and_keep_their_weights(pretended: Syncs) -> None:
    layer = nn.Linear(3, 3)
    weight = layer.weight
    assert layer.to("cuda").weight is weight
    assert weight.device == DEVICE
    weight.data = weight.data.bfloat16()
    assert weight.dtype == weight.float().bfloat16().dtype == torch.bfloat16
    other = copy.deepcopy(layer)
    assert isinstance(other.weight, nn.Parameter)
    assert other.weight is not weight
    layer.float()(torch.ones(2, 3, device="cuda")).sum().backward()
    assert weight.grad is not None
    assert weight.grad.device == DEVICE
    assert type(layer.cpu().weight) is nn.Parameter


HOST_ROWS = torch.ones(2)
MIXING: dict[str, Callable[[torch.Tensor], Any]] = {
    "sum": lambda rows: rows + HOST_ROWS,
    "product": lambda rows: HOST_ROWS @ rows,
    "stack": lambda rows: torch.stack([rows[0], torch.tensor(1.0)]),
    "cat": lambda rows: torch.cat([rows, HOST_ROWS]),
    "in place": lambda rows: HOST_ROWS.add_(rows),
    "index": lambda rows: HOST_ROWS[rows.long() * 0],
    "where": lambda rows: torch.where(rows > 0, rows, HOST_ROWS),
}


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
def test_one_operation_is_on_one_device(mix: Callable[[torch.Tensor], Any], pretended: Syncs) -> None:
    with pytest.raises(MixedDevices, match="of tensors on host and device"):
        mix(torch.ones(2, device="cuda"))


def test_what_cuda_allows(pretended: Syncs) -> None:
    rows = torch.ones(3, 2, device="cuda")
    assert (rows * torch.tensor(2.0) + 1).tolist() == [[3.0, 3.0]] * 3  # numbers come from anywhere
    assert rows[torch.tensor([0, 2])].shape == (2, 2)
    rows[1] = torch.zeros(2)
    assert torch.zeros(2).copy_(rows[1]).device.type == "cpu"


WAITS: dict[str, tuple[Callable[[torch.Tensor], Any], list[str]]] = {
    "nothing": (lambda rows: (rows * 2).sum() + torch.zeros(2, device="cuda").masked_fill(rows > 0, 1.0), []),
    "a number": (lambda rows: rows.sum().item(), ["item"]),
    "a condition": (lambda rows: bool((rows > 0).all()), ["item"]),
    "a copy to the host": (lambda rows: rows.cpu(), [TO_HOST]),
    "a list": (lambda rows: rows.tolist(), [TO_HOST]),
    "a copy to the device": (lambda rows: torch.ones(2).to(rows.device), [TO_DEVICE]),
    "values": (lambda rows: torch.tensor([1.0], device=rows.device), [TO_DEVICE]),
    "copies that do not wait": (
        lambda rows: (rows.to("cpu", non_blocking=True), torch.ones(2).to(rows.device, non_blocking=True)),
        [],
    ),
    "where something is": (lambda rows: rows.nonzero(), ["nonzero"]),
    "a mask": (lambda rows: rows[rows > 0], ["boolean index"]),
    "a filled mask": (lambda rows: rows.__setitem__(rows > 0, 0.0), []),
    "all that differ": (lambda rows: rows.unique(), ["unique"]),
    "synchronize": (lambda rows: torch.cuda.synchronize(), ["synchronize"]),
}


@pytest.mark.parametrize(("act", "expected"), WAITS.values(), ids=WAITS)
def test_waits_are_counted(act: Callable[[torch.Tensor], Any], expected: list[str], pretended: Syncs) -> None:
    rows = torch.ones(2, device="cuda")
    pretended.take()
    act(rows)
    assert [kind for kind, _ in pretended.take().elements()] == expected
    assert not pretended.take()


def test_the_place_of_a_wait_is_in_ray_st(pretended: Syncs) -> None:
    from ray_st.util.tensors import to_numpy

    to_numpy(torch.ones(2, device="cuda"))
    torch.ones(2, device="cuda").cpu()
    (_, first), (_, second) = pretended.take()
    assert first.startswith("util/tensors.py:")
    assert second == "outside of ray_st"


def test_its_random_numbers_are_its_own(pretended: Syncs) -> None:
    host = torch.get_rng_state()
    states = torch.cuda.get_rng_state_all()
    first = torch.rand(3, device="cuda")
    assert torch.equal(torch.get_rng_state(), host)
    torch.cuda.set_rng_state_all(states)
    assert torch.equal(torch.rand(3, device="cuda"), first)


def test_it_is_not_pickled(pretended: Syncs) -> None:
    with pytest.raises(TypeError, match="must not be pickled"):
        pickle.dumps({"loss": torch.ones(2, device="cuda")})
    with pytest.raises(TypeError, match="must not be pickled"):
        pickle.dumps(nn.Linear(2, 2).to("cuda"))
    with pytest.raises(RuntimeError, match="numpy"):
        torch.ones(2, device="cuda").numpy()


def test_its_memory_is_counted(pretended: Syncs) -> None:
    before = torch.cuda.memory_allocated()
    rows = torch.zeros(1024, device="cuda")
    view = rows[:10]
    assert torch.cuda.memory_allocated() == before + 4096
    twice = rows * 2
    del twice
    assert torch.cuda.memory_allocated() == before + 4096
    assert torch.cuda.max_memory_allocated() == before + 8192
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == before + 4096
    del rows
    assert torch.cuda.memory_allocated() == before + 4096
    del view
    assert torch.cuda.memory_allocated() == before
