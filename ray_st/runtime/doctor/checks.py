"""Checks of a cluster's nodes, each a function of the facts that nodes report."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from ray_st.runtime.doctor.access import CLUSTER, addresses, authentication, hosts, ports, tls, token_files
from ray_st.runtime.doctor.findings import ERROR, WARNING, Finding, Node
from ray_st.runtime.doctor.node import PACKAGES
from ray_st.util.packages import misfits

MAX_SKEW_S = 2.0
"""Seconds by which clocks may differ: S3 signatures tolerate minutes, lease and checkpoint ages less."""

_MUST_AGREE = ("ray", "ray-st")
_OPEN_FILES = 4096
_FREE_SHARE = 0.05  # below this, Ray does not spill objects to the disk


def versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether package versions match: what one node pickles, another unpickles."""
    for package in PACKAGES:
        there = _by_value(nodes, [node.versions[package] for node in nodes])
        if None in there and package in _MUST_AGREE:
            yield Finding.error(
                there.pop(None),
                f"{package} is not installed",
                "use an image with it on all nodes, or submit with --runtime-env-json "
                f'\'{{"pip": ["{package}"]}}\'',
            )
        if len(there) > 1:
            found = "; ".join(f"{version} on {where}" for version, where in there.items())
            level = ERROR if package in _MUST_AGREE else WARNING
            yield Finding(level, "", CLUSTER, f"{package}: {found}", "use one image for all nodes")
    for node in nodes:
        for what, cure in misfits(node.versions.get):
            yield Finding.warning(node.address, what, cure)
    pythons = _by_value(nodes, [node.python.rpartition(".")[0] for node in nodes])
    if len(pythons) > 1:
        found = "; ".join(f"{version} on {where}" for version, where in pythons.items())
        yield Finding.error(CLUSTER, f"Python: {found}", "use one image for all nodes")


def memory(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether the object store is in memory."""
    for node in nodes:
        store = node.resources.get("object_store_memory", 0)
        if node.shm_bytes < store:
            yield Finding.warning(
                node.address,
                f"/dev/shm has {_gib(node.shm_bytes)}, the object store {_gib(store)}: what does not fit "
                "goes to disk",
                f"give the container {_gib(store)} of shared memory (--shm-size, or an emptyDir of medium "
                "Memory)",
            )
        if node.scratch_free_share < _FREE_SHARE:
            yield Finding.error(
                node.address,
                f"{node.scratch_free_share:.0%} of the disk of /tmp is free: no object can be spilled",
                "free space, or start Ray with --temp-dir on another disk",
            )
        if node.open_files < _OPEN_FILES:
            yield Finding.warning(
                node.address,
                f"a process may hold {node.open_files} files open; a busy Ray node holds thousands",
                "ulimit -n 65536 before `ray start`",
            )


def accelerators(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether Ray offers the GPUs, and torch can use them."""
    for node in nodes:
        offered = node.resources.get("GPU", 0)
        if node.gpus > offered:
            yield Finding.warning(
                node.address,
                f"the machine has {node.gpus} GPUs, Ray offers {offered:g}",
                "start Ray where CUDA_VISIBLE_DEVICES shows them, or with --num-gpus; in Kubernetes ask for "
                "nvidia.com/gpu",
            )
        if offered > node.gpus:
            yield Finding.error(
                node.address,
                f"Ray offers {offered:g} GPUs, the driver sees {node.gpus}",
                "run the container with the NVIDIA runtime, and start Ray without a --num-gpus that is too "
                "large",
            )
        if offered and node.versions["torch"] and not node.torch_cuda:
            yield Finding.error(
                node.address,
                f"torch {node.versions['torch']} was built without CUDA, on a node with GPUs",
                "use the CUDA image (clusters/Dockerfile, --target cuda)",
            )
    cpus = sum(node.resources.get("CPU", 0) for node in nodes)
    gpus = sum(node.resources.get("GPU", 0) for node in nodes)
    if gpus and cpus <= gpus:
        yield Finding.warning(
            CLUSTER,
            f"{cpus:g} CPUs for {gpus:g} GPUs: a worker for each GPU leaves none to read and tokenise data",
            "give nodes more CPUs, or workers less than one (scaling.resources_per_worker: {CPU: 0.5, GPU: "
            "1})",
        )


def clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether clocks agree."""
    for node in nodes:
        if abs(node.clock_skew) - node.clock_error > MAX_SKEW_S:
            yield Finding.warning(
                node.address,
                f"its clock is {node.clock_skew:+.1f} s off the driver's (within {node.clock_error:.2f} s)",
                "run chrony or another time service on all hosts",
            )


def interfaces(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether Gloo and NCCL will choose usable network interfaces."""
    several = len(hosts(nodes)) > 1
    for node in nodes:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            chosen = node.settings.get(name, "").lstrip("^=")
            if chosen and not any(_matches(node, one) for one in chosen.split(",")):
                yield Finding.error(
                    node.address,
                    f"{name}={chosen}, but the node has {', '.join(node.interfaces)}",
                    f"set {name} to the interface of {node.address}",
                )
        own = [address for address in node.host_addresses if not ipaddress.ip_address(address).is_loopback]
        if several and not own and "GLOO_SOCKET_IFNAME" not in node.settings:
            yield Finding.error(
                node.address,
                f"its name {node.hostname} resolves to {', '.join(node.host_addresses) or 'nothing'}: Gloo "
                "will offer other hosts an address that is theirs",
                "set GLOO_SOCKET_IFNAME to the interface between hosts on this node before `ray start`",
            )


def traps(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Settings and other processes that are known to break runs."""
    for node in nodes:
        if node.settings.get("RAY_TRAIN_V2_ENABLED", "1").lower() in ("0", "false"):
            yield Finding.error(node.address, "RAY_TRAIN_V2_ENABLED=0: ray_st needs Ray Train V2", "unset it")
        if node.gcs_servers > 1:
            yield Finding.warning(
                node.address,
                f"{node.gcs_servers} Ray clusters run on this machine: a driver without an address may join "
                "another's",
                "set RAY_ADDRESS, or stop the clusters that nobody uses",
            )
        if node.resources.get("CPU", 0) > node.cpus:
            yield Finding.note(
                node.address,
                f"Ray offers {node.resources['CPU']:g} CPUs, the node has {node.cpus:g}",
                "start Ray with --num-cpus as many as there are, unless workers are meant to share",
            )


CHECKS: tuple[Callable[[Sequence[Node]], Iterable[Finding]], ...] = (
    versions,
    authentication,
    token_files,
    tls,
    ports,
    memory,
    accelerators,
    clocks,
    interfaces,
    traps,
)
"""All node checks, in display order."""


def _by_value(nodes: Sequence[Node], values: Sequence[str | None]) -> dict[str | None, str]:
    """Node addresses grouped by a value."""
    grouped = defaultdict(list)
    for node, value in zip(nodes, values, strict=True):
        grouped[value].append(node)
    return {value: addresses(group) for value, group in grouped.items()}


def _matches(node: Node, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in node.interfaces)


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"
