"""Checks of a cluster's nodes, each a function of the facts that nodes report."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from ray_st.runtime.doctor.access import CLUSTER, addresses, authentication, hosts, ports, tls, token_files
from ray_st.runtime.doctor.findings import ERROR, WARNING, Finding, Node
from ray_st.runtime.doctor.node import PACKAGES
from ray_st.util.free_memory import as_gib
from ray_st.util.packages import misfits

MAX_SKEW_S = 2.0
"""Seconds by which clocks may differ: S3 signatures tolerate minutes, lease and checkpoint ages less."""

HEAD_BYTES = 3 * 2**30
"""Memory that a head should have.

Measured: Ray's processes 0.6 GiB, the imports of a driver 0.4 GiB; the object store may take three tenths.
"""

LOCKED_BYTES = 2**30
"""Memory that RDMA may have to lock: buffers of each connection of each GPU."""

_ALIKE = 1.05
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
                f"/dev/shm has {as_gib(node.shm_bytes)}, the object store {as_gib(store)}: what does not fit "
                "goes to disk",
                f"give the container {as_gib(store)} of shared memory (--shm-size, or an emptyDir of medium "
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
    """Whether Gloo and NCCL will use interfaces that other hosts can reach."""
    several = len(hosts(nodes)) > 1
    for node in nodes:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            chosen = node.settings.get(name, "").lstrip("^=")
            if chosen and not any(_matches(node, one) for one in chosen.split(",")):
                yield Finding.error(
                    node.address,
                    f"{name}={chosen}, but the node has {', '.join(node.interfaces)}",
                    f"unset {name}, as workers use the interface of {node.address}, or name that one",
                )
        # Workers use the interface with the node's address. Without one Gloo uses the host name's address.
        has_own = any(node.address in addresses for addresses in node.interfaces.values())
        others = [one for one in node.host_addresses if not ipaddress.ip_address(one).is_loopback]
        if several and not has_own and not others and "GLOO_SOCKET_IFNAME" not in node.settings:
            yield Finding.error(
                node.address,
                f"none of its interfaces ({', '.join(node.interfaces)}) has this address, and its name "
                f"{node.hostname} resolves to {', '.join(node.host_addresses) or 'nothing'}: workers cannot "
                "tell which one other hosts reach",
                "start Ray with --node-ip-address of an interface, or set GLOO_SOCKET_IFNAME to the one "
                "between hosts before `ray start`",
            )


def head(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether the head has the memory for Ray's own processes and a driver."""
    for node in nodes:
        if node.is_head and node.memory_bytes < HEAD_BYTES:
            yield Finding.warning(
                node.address,
                f"the head has {as_gib(node.memory_bytes)} of memory: Ray's processes and the imports of a "
                "driver take 1 GiB, the object store up to three tenths, keys of a run's rows come on top",
                "give the head more memory (head.memory), or start drivers elsewhere",
            )


def compilers(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether nodes with GPUs have the C compiler that Triton calls."""
    without = [node for node in nodes if node.gpus and node.compiler is None]
    if without:
        yield Finding.warning(
            addresses(without),
            "there is no C compiler: torch_compile=True, and other kernels of Triton, will fail",
            "install gcc in the image (clusters/Dockerfile has it), or set CC",
        )


def gpu_memory(nodes: Sequence[Node]) -> Iterator[Finding]:
    """How many GPUs there are, of how much memory, and whether they are alike."""
    kinds = _by_value(nodes, [_gpus_of(node) for node in nodes])
    kinds.pop(None, None)
    if kinds:
        yield Finding.note(CLUSTER, "; ".join(f"{gpus} on {where}" for gpus, where in kinds.items()))
    sizes = [size for node in nodes for size in node.gpu_memory]
    if sizes and max(sizes) > _ALIKE * min(sizes):
        yield Finding.warning(
            CLUSTER,
            f"GPUs have from {as_gib(min(sizes))} to {as_gib(max(sizes))} of memory: a batch has to fit "
            "the smallest, and all wait for the slowest",
            "choose nodes of one kind for a run (groups.gpu.node_selector, scaling.label_selector)",
        )


def rdma(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether NCCL can use RDMA on nodes with GPUs; only checked when asked for."""
    for node in nodes:
        facts = node.rdma
        if not node.gpus:
            continue
        names = ", ".join(facts["adapters"])
        if not facts["usable"]:
            has = "there is no InfiniBand or RoCE adapter"
            if names:
                has = f"the machine has {names}, but the container cannot open /dev/infiniband"
            yield Finding.error(
                node.address,
                f"{has}: NCCL uses TCP",
                "request the adapters (groups.gpu.devices: {rdma/hca: 8}), or run the container with "
                "--device=/dev/infiniband",
            )
            continue
        yield Finding.note(node.address, f"{facts['usable']} RDMA device(s) can be opened; adapters: {names}")
        if not facts["library"]:
            yield Finding.error(
                node.address,
                "libibverbs is not installed: NCCL uses TCP",
                "install libibverbs1 and ibverbs-providers in the image (clusters/Dockerfile has them)",
            )
        if facts["locked_bytes"] is not None and facts["locked_bytes"] < LOCKED_BYTES:
            yield Finding.error(
                node.address,
                f"a process may lock {facts['locked_bytes']:,} bytes of memory: RDMA cannot register buffers",
                "let the container runtime, or the shell of `ray start`, lock any amount "
                "(LimitMEMLOCK=infinity, --ulimit memlock=-1, ulimit -l unlimited)",
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
    head,
    accelerators,
    gpu_memory,
    compilers,
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


def _gpus_of(node: Node) -> str | None:
    if not node.gpus:
        return None
    sizes = sorted({as_gib(size) for size in node.gpu_memory})
    return f"{node.gpus} GPU(s) of {' and '.join(sizes) or 'unknown memory'}"
