"""Which backends and which interface the workers' process group uses."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _is_backend_nccl

from ray_st import SentenceTransformerTrainingArguments
from ray_st.runtime.train import process_group as module
from ray_st.runtime.train.process_group import GPU_BACKENDS, choose_interface, interface_of, process_group

CPUS, GPUS = ScalingConfig(num_workers=2), ScalingConfig(num_workers=2, use_gpu=True)
HALVES = ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"GPU": 0.5})


@pytest.mark.parametrize(
    ("scaling", "given", "expected"),
    [
        (CPUS, {}, None),
        (GPUS, {}, GPU_BACKENDS),
        (HALVES, {}, GPU_BACKENDS),
        (GPUS, {"ddp_backend": "nccl"}, "nccl"),
        (GPUS, {"ddp_backend": "gloo"}, "gloo"),
        (CPUS, {"ddp_backend": "mpi"}, "mpi"),
    ],
)
def test_gpu_workers_have_a_backend_for_the_host_unless_the_user_names_one(
    scaling: ScalingConfig, given: dict[str, Any], expected: str | None
) -> None:
    group = process_group(scaling, SentenceTransformerTrainingArguments("out", ddp_timeout=60, **given))
    assert (group.backend, group.timeout_s) == (expected, 60)


def test_without_arguments_the_timeout_is_ray_trains() -> None:
    assert process_group(GPUS).backend == GPU_BACKENDS
    assert process_group(CPUS).timeout_s == TorchConfig().timeout_s


def test_ray_handles_errors_of_nccl_in_a_pair_of_backends_as_in_nccl_alone() -> None:
    assert _is_backend_nccl(GPU_BACKENDS)
    assert not _is_backend_nccl("gloo")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.7", "ens5"),
        ("127.0.0.1", "lo"),
        ("fd00::7", "ens5"),
        ("fe80::1", "net1"),
        ("203.0.113.9", None),  # translated outside of the machine
    ],
)
def test_the_interface_is_that_of_the_nodes_address(address: str, expected: str | None) -> None:
    interfaces = {
        "lo": ["127.0.0.1", "::1"],
        "docker0": ["172.17.0.1"],
        "ens5": ["10.0.0.7", "fd00::7"],
        "net1": ["fe80::1%net1"],
        "down0": [],
    }
    assert interface_of(address, interfaces) == expected


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in module.INTERFACES:
        monkeypatch.setenv(variable, "restored afterwards")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(module.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    addresses = {"lo": [SimpleNamespace(address="127.0.0.1")], "ens5": [SimpleNamespace(address="10.0.0.7")]}
    monkeypatch.setattr(module.psutil, "net_if_addrs", lambda: addresses)
    return monkeypatch


def chosen() -> list[str | None]:
    return [os.environ.get(variable) for variable in module.INTERFACES]


def test_gloo_and_nccl_use_that_interface(node: pytest.MonkeyPatch) -> None:
    choose_interface()
    assert chosen() == ["ens5", "=ens5"]


def test_what_the_environment_names_stays(node: pytest.MonkeyPatch) -> None:
    node.setenv("NCCL_SOCKET_IFNAME", "^docker0")
    choose_interface()
    assert chosen() == ["ens5", "^docker0"]


def test_an_address_of_no_interface_leaves_the_choice_to_the_libraries(node: pytest.MonkeyPatch) -> None:
    node.setattr(module.ray.util, "get_node_ip_address", lambda: "203.0.113.9")
    choose_interface()
    assert chosen() == [None, None]


def test_workers_choose_before_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    backend = process_group(CPUS).backend_cls
    monkeypatch.setattr(backend.__mro__[1], "on_start", lambda self, group, config: done.append(config))
    group = SimpleNamespace(execute=done.append)
    config = process_group(CPUS)
    backend().on_start(group, config)
    assert done == [choose_interface, config]
