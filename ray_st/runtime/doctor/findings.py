"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, NOTE, OK = "error", "warning", "note", "ok"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Args:
        level: ``error`` (a run will fail, or anybody can get in), ``warning`` (a run will suffer), ``note``
            (worth knowing) or ``ok``.
        check: The check's name.
        where: The node's address, or ``cluster``.
        found: What was found.
        cure: What to do; empty where nothing is to be done.
    """

    level: str
    check: str
    where: str
    found: str
    cure: str = ""


@dataclass(frozen=True)
class Node:
    """A node as Ray sees it, and what it says of itself.

    Args:
        address: Its IP address.
        is_head: Whether the cluster's state lives there.
        resources: What it offers, as Ray counts it.
        metrics_port: Where it shows metrics.
        hostname: Its name.
        python: Python's version.
        versions: Versions of packages by name; None for one that is not there.
        torch_cuda: The CUDA version that torch was built for.
        settings: Environment variables that matter.
        host_addresses: What its own name resolves to.
        interfaces: Names of its network interfaces.
        listeners: Address, port and command of what listens there.
        gcs_servers: Heads of Ray clusters that run on the machine.
        shm_bytes: Size of ``/dev/shm``.
        scratch_free_share: Free share of the disk of ``/tmp``.
        open_files: Files that a process may hold open.
        cpus: Cores that it may use.
        gpus: GPUs that the driver sees.
        exposed_token: The file with the token, if other users of the machine may read it.
        tls_fault: What is wrong with its certificates, if it uses any.
        clock_skew: Seconds that its clock is ahead of the driver's.
        clock_error: Most seconds by which that may be wrong.
    """

    address: str
    is_head: bool
    resources: dict[str, float]
    metrics_port: int
    hostname: str
    python: str
    versions: dict[str, str | None]
    torch_cuda: str | None
    settings: dict[str, str]
    host_addresses: list[str]
    interfaces: list[str]
    listeners: list[tuple[str, int, str]]
    gcs_servers: int
    shm_bytes: int
    scratch_free_share: float
    open_files: int
    cpus: float
    gpus: int
    exposed_token: str | None
    tls_fault: str | None
    clock_skew: float
    clock_error: float


def worst(findings: Iterable[Finding]) -> str:
    """The worst level of some findings; ``ok`` without any."""
    levels = {finding.level for finding in findings}
    return next((level for level in (ERROR, WARNING, NOTE) if level in levels), OK)


def as_plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as values for programs."""
    return [dict(vars(finding)) for finding in findings]
