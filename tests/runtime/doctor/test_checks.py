"""Each check sees its fault, says what to do, and finds nothing in a good cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ray_st.runtime.doctor import checks
from ray_st.runtime.doctor.findings import ERROR, NOTE, OK, WARNING, Finding, Node, named, worst

GOOD = Node(
    address="10.0.0.1",
    is_head=True,
    resources={"CPU": 8.0, "object_store_memory": 4.0 * 2**30},
    metrics_port=8080,
    hostname="one",
    python="3.11.14",
    versions={
        "ray": "2.60.0",
        "ray-st": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "pyarrow": "26.0.1",
        "peft": None,
    },
    torch_cuda="12.8",
    settings={"RAY_AUTH_MODE": "token"},
    host_addresses=["10.0.0.1"],
    interfaces={"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]},
    listeners=[("10.0.0.1", 6379, "/x/gcs_server --a"), ("127.0.0.1", 8265, "ray/dashboard/dashboard.py")],
    gcs_servers=1,
    memory_bytes=8 * 2**30,
    shm_bytes=8 * 2**30,
    scratch_free_share=0.5,
    open_files=65536,
    cpus=8.0,
    gpus=0,
    gpu_memory=[],
    compiler="/usr/bin/gcc",
    rdma={"adapters": [], "usable": 0, "library": True, "locked_bytes": None},
    exposed_token=None,
    tls_fault=None,
    clock_skew=0.001,
    clock_error=0.002,
)
OTHER = dataclasses.replace(
    GOOD,
    address="10.0.0.2",
    is_head=False,
    hostname="two",
    host_addresses=["10.0.0.2"],
    interfaces={"lo": ["127.0.0.1"], "eth0": ["10.0.0.2"]},
    gcs_servers=0,
)


AWAY = {"lo": ["127.0.0.1"], "eth0": ["192.0.2.7"]}
"""Interfaces without the node's address, which is translated outside of the machine."""


def found(*nodes: Node, levels: tuple[str, ...] = (ERROR, WARNING)) -> list[Finding]:
    every = [finding for check in checks.CHECKS for finding in named(check(nodes), check.__name__)]
    return [finding for finding in every if finding.level in levels]


def other(**changes: Any) -> Node:
    return dataclasses.replace(OTHER, **changes)


def test_a_good_cluster() -> None:
    assert found(GOOD) == []
    assert found(GOOD, OTHER) == []
    (note,) = found(GOOD, OTHER, levels=(NOTE,))
    assert "not encrypted" in note.found


def gpus(**changes: Any) -> dict[str, Any]:
    return {"resources": GOOD.resources | {"GPU": 1.0}, "gpus": 1} | changes


@pytest.mark.parametrize(
    ("changes", "level", "check", "text"),
    [
        (
            {"versions": GOOD.versions | {"ray": "2.59.0"}},
            ERROR,
            "versions",
            "2.60.0 on 10.0.0.1; 2.59.0 on 10.0.0.2",
        ),
        ({"versions": GOOD.versions | {"ray-st": None}}, ERROR, "versions", "ray-st is not installed"),
        ({"versions": GOOD.versions | {"torch": "2.12.0"}}, WARNING, "versions", "torch: 2.13.0"),
        ({"python": "3.12.1"}, ERROR, "versions", "Python: 3.11 on 10.0.0.1; 3.12 on 10.0.0.2"),
        ({"settings": {}}, ERROR, "authentication", "RAY_AUTH_MODE differs"),
        (
            {"exposed_token": "/home/me/token"},
            WARNING,
            "authentication",
            "can read the token in /home/me/token",
        ),
        ({"tls_fault": "no such file"}, ERROR, "tls", "no such file"),
        ({"settings": GOOD.settings | {"RAY_USE_TLS": "1"}}, ERROR, "tls", "differs between nodes"),
        ({"shm_bytes": 64 * 2**20}, WARNING, "memory", "/dev/shm has 0.1 GiB, the object store 4.0 GiB"),
        ({"scratch_free_share": 0.01}, ERROR, "memory", "1% of the disk"),
        ({"open_files": 1024}, WARNING, "memory", "1024 files"),
        ({"gpus": 2}, WARNING, "accelerators", "has 2 GPUs, Ray offers 0"),
        (gpus(gpus=0), ERROR, "accelerators", "Ray offers 1 GPUs, the driver sees 0"),
        (gpus(torch_cuda=None), ERROR, "accelerators", "built without CUDA"),
        ({"clock_skew": -30.0}, WARNING, "clocks", "-30.0 s off"),
        ({"settings": GOOD.settings | {"GLOO_SOCKET_IFNAME": "ens5"}}, ERROR, "interfaces", "has lo, eth0"),
        (
            {"host_addresses": ["127.0.1.1"], "interfaces": AWAY},
            ERROR,
            "interfaces",
            "none of its interfaces (lo, eth0) has this address, and its name two resolves to 127.0.1.1",
        ),
        ({"host_addresses": [], "interfaces": AWAY}, ERROR, "interfaces", "resolves to nothing"),
        ({"is_head": True, "memory_bytes": 2**31}, WARNING, "head", "the head has 2.0 GiB of memory"),
        (gpus(compiler=None), WARNING, "compilers", "no C compiler"),
        (
            gpus(gpus=2, gpu_memory=[80 * 2**30, 40 * 2**30]),
            WARNING,
            "gpu_memory",
            "from 40.0 GiB to 80.0 GiB",
        ),
        ({"settings": GOOD.settings | {"RAY_TRAIN_V2_ENABLED": "0"}}, ERROR, "traps", "needs Ray Train V2"),
        ({"gcs_servers": 2}, WARNING, "traps", "2 Ray clusters run on this machine"),
    ],
)
def test_faults(changes: dict[str, Any], level: str, check: str, text: str) -> None:
    faults = [finding for finding in found(GOOD, other(**changes)) if finding.check == check]
    assert any(finding.level == level and text in finding.found for finding in faults), faults
    assert all(finding.cure for finding in faults)


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_skew": 30.0, "clock_error": 40.0},  # too slow an answer to tell
        {"settings": GOOD.settings | {"GLOO_SOCKET_IFNAME": "eth"}},  # Gloo takes prefixes
        {"settings": GOOD.settings | {"NCCL_SOCKET_IFNAME": "=eth0,eth1"}},
        {"host_addresses": ["127.0.1.1"]},  # workers use the interface with the node's address
        {"host_addresses": ["192.0.2.7"], "interfaces": AWAY},
        {
            "host_addresses": [],
            "interfaces": AWAY,
            "settings": GOOD.settings | {"GLOO_SOCKET_IFNAME": "eth0"},
        },
        {"memory_bytes": 2**31},  # not a head
        {"compiler": None},  # no GPU
        gpus(gpu_memory=[80 * 2**30]),
    ],
)
def test_no_faults(changes: dict[str, Any]) -> None:
    assert found(GOOD, other(**changes)) == []


def test_no_token_matters_where_others_can_reach() -> None:
    bare = dataclasses.replace(GOOD, settings={})
    (finding,) = found(bare)
    assert (finding.level, finding.check) == (ERROR, "authentication")
    assert "10.0.0.1:6379" in finding.found
    local = dataclasses.replace(bare, listeners=[("127.0.0.1", 6379, "gcs_server"), ("0.0.0.0", 22, "sshd")])
    assert found(local) == []
    assert "on this machine only" in found(local, levels=(NOTE,))[0].found


def test_gpus_are_listed() -> None:
    pair = [other(**gpus(gpus=8, gpu_memory=[80 * 2**30] * 8)), other(**gpus(gpus=8), address="10.0.0.3")]
    (note,) = checks.gpu_memory([GOOD, *pair])
    assert note.found == "8 GPU(s) of 80.0 GiB on 10.0.0.2; 8 GPU(s) of unknown memory on 10.0.0.3"
    assert list(checks.gpu_memory([GOOD])) == []


MLX = {"adapters": ["mlx5_0", "mlx5_1"], "usable": 2, "library": True, "locked_bytes": None}


@pytest.mark.parametrize(
    ("facts", "levels", "text"),
    [
        ({}, [NOTE], "2 RDMA device(s) can be opened; adapters: mlx5_0, mlx5_1"),
        (
            {"usable": 0},
            [ERROR],
            "the machine has mlx5_0, mlx5_1, but the container cannot open /dev/infiniband",
        ),
        ({"usable": 0, "adapters": []}, [ERROR], "there is no InfiniBand or RoCE adapter: NCCL uses TCP"),
        ({"library": False}, [NOTE, ERROR], "libibverbs is not installed"),
        ({"locked_bytes": 8 * 2**20}, [NOTE, ERROR], "may lock 8,388,608 bytes of memory"),
    ],
)
def test_rdma_is_reported_when_asked_for(facts: dict[str, Any], levels: list[str], text: str) -> None:
    node = other(**gpus(rdma=MLX | facts))
    findings = list(checks.rdma([GOOD, node]))
    assert [finding.level for finding in findings] == levels
    assert text in findings[-1].found
    assert all(finding.cure for finding in findings if finding.level == ERROR)
    assert checks.rdma not in checks.CHECKS


def test_metrics_need_no_token() -> None:
    node = dataclasses.replace(GOOD, listeners=[("0.0.0.0", 8080, "ray/dashboard/agent.py")])
    (note,) = found(node, levels=(NOTE,))
    assert (note.check, "8080" in note.found) == ("ports", True)


def test_cpus_beside_gpus() -> None:
    node = dataclasses.replace(GOOD, resources={"CPU": 2.0, "GPU": 2.0}, gpus=2, cpus=2.0)
    (finding,) = found(node)
    assert "2 CPUs for 2 GPUs" in finding.found


def test_more_cpus_than_there_are_is_worth_knowing() -> None:
    node = dataclasses.replace(GOOD, cpus=2.0)
    assert found(node) == []
    assert "offers 8 CPUs, the node has 2" in found(node, levels=(NOTE,))[0].found


def test_one_host_needs_no_interface_and_no_tls() -> None:
    assert found(GOOD, other(hostname="one", host_addresses=["127.0.1.1"])) == []
    assert found(GOOD, other(hostname="one"), levels=(NOTE,)) == []


def test_worst() -> None:
    levels = [Finding(level, "c", "w", "f") for level in (OK, NOTE, WARNING, ERROR)]
    assert [worst(levels[: end + 1]) for end in range(4)] == [OK, NOTE, WARNING, ERROR]
    assert worst([]) == OK


def test_a_pair_of_packages_that_does_not_work_is_named() -> None:
    versions = {**GOOD.versions, "transformers": "5.24.0", "peft": "0.21.2"}
    (finding,) = found(dataclasses.replace(GOOD, versions=versions))
    assert (finding.level, finding.check) == (WARNING, "versions")
    assert finding.found == "transformers 5.24.0 does not work with peft 0.21.2"
    assert "transformers<5.24" in str(finding.cure)
