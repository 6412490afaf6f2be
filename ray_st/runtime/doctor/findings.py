"""The findings of checks, and the facts they are based on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

ERROR, WARNING, NOTE, OK = "error", "warning", "note", "ok"


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Args:
        level: ``error`` (a run will fail, or anyone can get access), ``warning`` (a run will suffer),
            ``note`` (worth knowing) or ``ok``.
        check: The check's name.
        where: The node's address, or ``cluster``.
        found: What was found.
        cure: How to fix it; empty if nothing needs to be done.
    """

    level: str
    check: str
    where: str
    found: str
    cure: str = ""

    @classmethod
    def error(cls, where: str, found: str, cure: str) -> Finding:
        """A finding of this level; :func:`named` adds the name of its check."""
        return cls(ERROR, "", where, found, cure)

    @classmethod
    def warning(cls, where: str, found: str, cure: str) -> Finding:
        """See :meth:`error`."""
        return cls(WARNING, "", where, found, cure)

    @classmethod
    def note(cls, where: str, found: str, cure: str = "") -> Finding:
        """See :meth:`error`."""
        return cls(NOTE, "", where, found, cure)


@dataclass(frozen=True)
class Node:
    """A node as Ray sees it, and the facts it reports.

    Args:
        address: Its IP address.
        is_head: Whether it is the cluster's head node.
        resources: Its resources as counted by Ray.
        metrics_port: The port that exports metrics.
        hostname: Its name.
        python: Python's version.
        versions: Package versions by name; None if a package is not installed.
        torch_cuda: The CUDA version that torch was built for.
        settings: Relevant environment variables.
        host_addresses: The addresses that its own hostname resolves to.
        interfaces: The addresses of each of its network interfaces.
        listeners: Address, port and command of each listening process.
        gcs_servers: GCS servers (cluster heads) that run on the machine.
        memory_bytes: Memory that its container may use.
        shm_bytes: Size of ``/dev/shm``.
        scratch_free_share: Free share of the disk of ``/tmp``.
        open_files: Maximum number of open files of a process.
        cpus: Number of cores that it may use.
        gpus: GPUs that the device driver sees.
        gpu_memory: Bytes of each GPU's memory; empty if unknown.
        compiler: The C compiler; None if there is none.
        rdma: See :func:`ray_st.runtime.doctor.node.rdma_facts`.
        exposed_token: The token file, if other users of the machine can read it.
        tls_fault: What is wrong with its certificates, if it uses any.
        clock_skew: Seconds by which its clock is ahead of the driver's.
        clock_error: Maximum error of ``clock_skew``, in seconds.
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
    interfaces: dict[str, list[str]]
    listeners: list[tuple[str, int, str]]
    gcs_servers: int
    memory_bytes: int
    shm_bytes: int
    scratch_free_share: float
    open_files: int
    cpus: float
    gpus: int
    gpu_memory: list[int]
    compiler: str | None
    rdma: dict[str, Any]
    exposed_token: str | None
    tls_fault: str | None
    clock_skew: float
    clock_error: float


def named(findings: Iterable[Finding], check: str) -> list[Finding]:
    """Findings with the name of the check that found them, where they have none."""
    return [replace(finding, check=finding.check or check) for finding in findings]


def worst(findings: Iterable[Finding]) -> str:
    """The worst level among some findings; ``ok`` if there are none."""
    levels = {finding.level for finding in findings}
    return next((level for level in (ERROR, WARNING, NOTE) if level in levels), OK)


def as_plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as plain values, for programs."""
    return [dict(vars(finding)) for finding in findings]
