"""The facts that a node reports.

This module is sent by value and runs on nodes without ray_st too, so it uses only the standard library and
psutil, which is part of Ray.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("ray", "ray-st", "torch", "transformers", "pyarrow", "peft")
SETTINGS = (
    "RAY_AUTH_MODE",
    "RAY_USE_TLS",
    "RAY_TRAIN_V2_ENABLED",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "HF_HUB_OFFLINE",
)
"""Environment variables that checks inspect; none of them is secret."""

_MAX_NODES = 4096
_RAY = re.compile(r"gcs_server|raylet|ray/dashboard|ray/_private|ray/util/client|ray::|ray-dashboard")


def gather() -> dict[str, Any]:
    """Facts about this node, as plain values."""
    return {
        "hostname": socket.gethostname(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: _version(name) for name in PACKAGES},
        "torch_cuda": _torch_cuda(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "host_addresses": _addresses(socket.gethostname()),
        "interfaces": {
            name: [one.address.partition("%")[0] for one in addresses]
            for name, addresses in psutil.net_if_addrs().items()
        },
        "listeners": listeners(),
        "gcs_servers": _count_processes("gcs_server"),
        "memory_bytes": memory_bytes(Path("/sys/fs/cgroup")),
        "shm_bytes": _size("/dev/shm"),
        "scratch_free_share": _free_share("/tmp"),
        "open_files": _open_files(),
        "cpus": _cpus(),
        "gpus": _gpus(),
        "gpu_memory": _gpu_memory(),
        "compiler": os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"),
        "rdma": rdma_facts(Path("/")),
        "exposed_token": exposed_token(),
        "tls_fault": tls_fault() if _is_on("RAY_USE_TLS") else None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built for, without loading torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda[^=]*= *'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return []
    return sorted({str(address[0]) for *_, address in found})


def listeners() -> list[tuple[str, int, str]]:
    """Address, port and command line of every process of this user that listens for TCP connections."""
    found = []
    with suppress(psutil.AccessDenied):  # on systems other than Linux, a user sees no connections
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid is not None:
                with suppress(psutil.NoSuchProcess):
                    command = " ".join(psutil.Process(connection.pid).cmdline())
                    found.append((*connection.laddr, command))
    return sorted(found)


def is_ray(command: str) -> bool:
    """Whether a command line belongs to one of Ray's processes."""
    return bool(_RAY.search(command))


def _count_processes(name: str) -> int:
    commands = (process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"]))
    return sum(os.path.basename(command[0]) == name for command in commands)


def _size(path: str) -> int:
    return shutil.disk_usage(path).total if os.path.isdir(path) else 0


def _free_share(path: str) -> float:
    usage = shutil.disk_usage(path)
    return usage.free / usage.total


def _open_files() -> int:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _cpus() -> float:
    """Number of cores that this container may use."""
    cores = float(len(os.sched_getaffinity(0)))
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.is_file():
        quota, period = limit.read_text(encoding="ascii").split()
        cores = cores if quota == "max" else min(cores, int(quota) / int(period))
    return cores


def _gpus() -> int:
    """GPUs that the device driver sees here, whether or not Ray knows them."""
    table, devices = Path("/proc/driver/nvidia/gpus"), list(Path("/dev").glob("nvidia[0-9]*"))
    return max(len(list(table.iterdir())) if table.is_dir() else 0, len(devices))


def _gpu_memory() -> list[int]:
    """Bytes of each GPU's memory, as nvidia-smi reports them; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that does not work; the number of GPUs tells
        return []
    return mebibytes(done.stdout)


def mebibytes(text: str) -> list[int]:
    """The amounts that nvidia-smi prints, a line for each GPU, in bytes; GPUs without one are left out."""
    return [int(line) * 2**20 for line in text.splitlines() if line.strip().isdigit()]


def memory_bytes(groups: Path) -> int:
    """Memory that this container may use, or that the machine has.

    Args:
        groups: Where control groups are mounted.
    """
    found = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1
        with suppress(OSError, ValueError):  # another version, or "max"
            found.append(int((groups / name).read_text(encoding="ascii")))
    return min(found)


def rdma_facts(root: Path) -> dict[str, Any]:
    """What this node has for RDMA (InfiniBand or RoCE).

    Args:
        root: The root of the file system.

    Returns:
        ``adapters``: names of the machine's adapters. ``usable``: how many of them this process can open.
        ``library``: whether NCCL finds libibverbs. ``locked_bytes``: how much memory a process may lock; None
        for no limit.
    """
    import resource

    adapters, devices = root / "sys/class/infiniband", root / "dev/infiniband"
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return {
        "adapters": sorted(path.name for path in adapters.iterdir()) if adapters.is_dir() else [],
        "usable": sum(os.access(path, os.R_OK | os.W_OK) for path in devices.glob("uverbs*")),
        "library": ctypes.util.find_library("ibverbs") is not None,
        "locked_bytes": None if soft == resource.RLIM_INFINITY else soft,
    }


def _is_on(name: str) -> bool:
    return os.environ.get(name, "0").lower() in ("1", "true")


def exposed_token() -> str | None:
    """The token file, if other users of the machine can read it; Ray creates it that way."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return str(path) if path.is_file() and path.stat().st_mode & 0o077 else None


def tls_fault() -> str | None:
    """What is wrong with the certificates configured for Ray; None if a handshake with them succeeds."""
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    lacking = [name for name in names if not os.path.isfile(os.environ.get(name, ""))]
    if lacking:
        return f"{', '.join(lacking)}: no such file"
    certificate, key, authority = (os.environ[name] for name in names)
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        client = ssl.create_default_context(cafile=authority)
        client.check_hostname = False
        _handshake(server, client)
    except (ssl.SSLError, OSError) as error:
        return str(error)
    return None


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Performs a TLS handshake in memory.

    It fails if the key does not match the certificate, or the certificate has expired or is from another
    authority.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue


class Probe:
    """An actor class, started once per node, for tests that need several nodes."""

    def gather(self) -> dict[str, Any]:
        """Facts about this node."""
        return gather()

    def now(self) -> float:
        """The time of this node's clock."""
        return time.time()

    def listen(self, address: str) -> int:
        """Opens a port for other nodes to connect to; returns its number."""
        # The system completes connections up to the backlog; no thread needs to accept them.
        server = socket.create_server((address, 0), backlog=_MAX_NODES)
        port = int(server.getsockname()[1])
        server.detach()  # stays open until this process ends
        return port

    def reach(self, others: list[tuple[str, int]]) -> list[str | None]:
        """Why this node cannot connect to each of the other nodes' ports; None where it can."""
        return [self._try(address, port) for address, port in others]

    def _try(self, address: str, port: int) -> str | None:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError as error:
            return str(error)
        return None

    def write(self, location: str, name: str) -> str | None:
        """Writes a small file to a folder or bucket; returns the error, if any."""
        try:
            filesystem, path = _opened(location)
            filesystem.create_dir(path, recursive=True)
            with filesystem.open_output_stream(f"{path}/{name}") as stream:
                stream.write(name.encode())
        except (OSError, ValueError, ImportError, NotImplementedError) as error:  # includes pyarrow's errors
            return f"{type(error).__name__}: {error}"
        return None

    def missing(self, location: str, names: list[str]) -> list[str]:
        """The files, of those written by all nodes, that this node does not see."""
        filesystem, path = _opened(location)
        infos = filesystem.get_file_info([f"{path}/{name}" for name in names])
        return [name for name, info in zip(names, infos, strict=True) if not info.is_file]

    def remove(self, location: str, name: str) -> None:
        """Removes the file that this node wrote."""
        filesystem, path = _opened(location)
        filesystem.delete_file(f"{path}/{name}")


def _opened(location: str) -> tuple[Any, str]:
    # Not the one in ray_st.util: this file is sent by value.
    import pyarrow.fs as pafs

    filesystem, path = pafs.FileSystem.from_uri(location if "://" in location else os.path.abspath(location))
    return filesystem, path.rstrip("/")
