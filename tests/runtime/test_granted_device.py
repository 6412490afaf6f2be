"""A process with a share of a GPU gets that share of its memory, wherever Ray starts it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_st.runtime.cluster import granted_device
from ray_st.runtime.cluster.granted_device import take_granted_device

GPU = torch.device("cuda", 3)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, torch.device]]:
    """What PyTorch is told."""
    told: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: told.append(limit))
    return told


def granted(monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], gpus: list[str]) -> None:
    """Has Ray grant something to this process."""
    context = SimpleNamespace(
        get_accelerator_ids=lambda: {"TPU": [], "GPU": gpus}, get_assigned_resources=lambda: resources
    )
    monkeypatch.setattr(granted_device.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU.index)


@pytest.mark.parametrize("share", [0.25, 0.3333])
def test_a_share_of_a_gpu_is_that_share_of_its_memory(
    share: float, limits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(monkeypatch, {"CPU": 2.0, "GPU": share}, ["5"])
    assert take_granted_device() == GPU
    assert limits == [(share, GPU)]


@pytest.mark.parametrize("gpus", [1.0, 2.0])
def test_whole_gpus_have_no_limit(gpus: float, limits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    granted(monkeypatch, {"GPU": gpus}, ["5"])
    assert take_granted_device() == GPU
    assert limits == []


def test_without_a_gpu_the_device_is_the_cpu(limits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    granted(monkeypatch, {"CPU": 0.5}, [])
    assert take_granted_device() == torch.device("cpu")
    assert limits == []
