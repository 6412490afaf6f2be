"""Gathers facts from every node of a cluster, runs tests that need several nodes, and applies the checks."""

from __future__ import annotations

import dataclasses
import logging
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_st.runtime.cluster import connection
from ray_st.runtime.cluster.handles import Actor, start_actor
from ray_st.runtime.doctor import checks
from ray_st.runtime.doctor import node as node_module
from ray_st.runtime.doctor.access import CLUSTER
from ray_st.runtime.doctor.checks import CHECKS
from ray_st.runtime.doctor.findings import ERROR, OK, Finding, Node, named
from ray_st.runtime.train import launch
from ray_st.runtime.train.process_group import GPU_BACKENDS, process_group
from ray_st.training.distributed.collectives import gather_objects, sum_over_ranks

_CLOCK_ROUNDS = 5
_JOIN_S = 60
_ANSWER_S = 120


def examine(
    address: str | None = None,
    location: str | None = None,
    collectives: bool = True,
    rdma: bool = False,
) -> list[Finding]:
    """Looks for problems of a cluster.

    Args:
        address: The cluster's address; by default the cluster this process is connected to, or that Ray
            finds, or else a local one that is started.
        location: A folder or URI that every node must be able to write to, such as a run's ``storage_path``.
        collectives: Whether to test that workers on all nodes can form a process group, as training does;
            takes half a minute.
        rdma: Whether nodes with GPUs should have InfiniBand or RoCE.

    Returns:
        The findings, with one of level ``ok`` for each check that found nothing.
    """
    try:
        with _connected(address):
            return _examine(location, collectives, rdma)
    except ConnectionError as error:
        return [_not_connected(error, address)]


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    if address is not None and not ray.is_initialized():
        connection.expect(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        with connection.connected():
            yield
    finally:
        if address is not None:
            ray.shutdown()


def _not_connected(error: ConnectionError, address: str | None) -> Finding:
    text = " ".join(str(error).split())
    return Finding(
        ERROR,
        "connection",
        address or CLUSTER,
        text or type(error).__name__,
        "see that the cluster runs and its port can be reached; with RAY_AUTH_MODE=token Ray says no more "
        "than this to a wrong token, so compare `ray get-auth-token` here and on the head",
    )


def _examine(location: str | None, collectives: bool, rdma: bool) -> list[Finding]:
    findings: list[Finding] = []
    with _probes() as started:
        described = [(probe, _describe(probe)) for probe in started]
        probes = [probe for probe, node in described if isinstance(node, Node)]
        nodes = [node for _, node in described if isinstance(node, Node)]
        findings += _or_ok([node for _, node in described if isinstance(node, Finding)], "nodes")
        for check in (*CHECKS, checks.rdma) if rdma else CHECKS:
            findings += _or_ok(check(nodes), check.__name__)
        findings += _or_ok(_dashboard(nodes), "dashboard")
        findings += _or_ok(_network(probes), "network")
        if location is not None:
            findings += _or_ok(_storage(probes, location), "storage")
    if collectives:
        findings += _or_ok(_process_group(nodes), "collectives")
    return findings


def _or_ok(findings: Iterable[Finding], name: str) -> list[Finding]:
    return named(findings, name) or [Finding(OK, name, CLUSTER, "nothing found")]


@dataclass(frozen=True)
class _Probe:
    """A node's entry in Ray's node table, and the actor started on it."""

    row: dict[str, Any]
    actor: Actor

    @property
    def address(self) -> str:
        return str(self.row["NodeManagerAddress"])


@contextmanager
def _probes() -> Iterator[list[_Probe]]:
    """One actor on each node, sent by value so that it also works on nodes without ray_st."""
    ray.cloudpickle.register_pickle_by_value(node_module)
    try:
        probes = []
        for row in [row for row in ray.nodes() if row["Alive"]]:
            there = NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)
            actor = start_actor(node_module.Probe, num_cpus=0, scheduling_strategy=there)
            probes.append(_Probe(row, actor))
        try:
            yield probes
        finally:
            for probe in probes:
                ray.kill(probe.actor)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node_module)


def _describe(probe: _Probe) -> Node | Finding:
    """The facts that a node reports, or a finding that it does not answer."""
    try:
        facts = ray.get(probe.actor.gather.remote(), timeout=_ANSWER_S)
        skew, error = _clock(probe)
    except RayError as fault:
        return Finding.error(
            probe.address,
            f"it does not answer: {type(fault).__name__}: {str(fault).strip().splitlines()[0]}",
            "look into its logs (ray logs raylet.out --node-ip ADDRESS): lost, out of memory, or another "
            "Python",
        )
    resources = probe.row["Resources"]
    return Node(
        address=probe.address,
        is_head="node:__internal_head__" in resources,
        resources=resources,
        metrics_port=probe.row["MetricsExportPort"],
        clock_skew=skew,
        clock_error=error,
        **facts,
    )


def _clock(probe: _Probe) -> tuple[float, float]:
    """How far a node's clock is ahead, and the uncertainty of that estimate.

    The uncertainty is half of the fastest round trip.
    """
    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        begin = time.time()
        there = ray.get(probe.actor.now.remote())
        end = time.time()
        rounds.append(((end - begin) / 2, there - (begin + end) / 2))
    error, skew = min(rounds)
    return skew, error


def _network(probes: Sequence[_Probe]) -> Iterator[Finding]:
    """Whether every node can reach a port of every other node, as process groups require."""
    doors = [(probe.address, ray.get(probe.actor.listen.remote(probe.address))) for probe in probes]
    faults = ray.get([probe.actor.reach.remote(doors) for probe in probes])
    for here, found in zip(probes, faults, strict=True):
        for (address, port), reason in zip(doors, found, strict=True):
            if reason is not None:
                yield Finding.error(
                    here.address,
                    f"cannot reach {address}:{port}: {reason}",
                    "let the cluster's nodes talk to each other on all TCP ports (security group, network "
                    "policy)",
                )


def _storage(probes: Sequence[_Probe], location: str) -> Iterator[Finding]:
    """Whether every node can write to a location and sees what the others wrote there."""
    names = [f".ray_st-doctor-{uuid.uuid4().hex}" for _ in probes]
    faults = ray.get(
        [probe.actor.write.remote(location, name) for probe, name in zip(probes, names, strict=True)]
    )
    written = [
        (probe, name) for probe, name, fault in zip(probes, names, faults, strict=True) if fault is None
    ]
    for probe, fault in zip(probes, faults, strict=True):
        if fault is not None:
            yield Finding.error(
                probe.address,
                f"{location} cannot be written: {fault}",
                "mount the volume there, or give the node the bucket's keys (AWS_…) and its endpoint",
            )
    for probe, _ in written:
        lost = ray.get(probe.actor.missing.remote(location, [name for _, name in written]))
        if lost:
            yield Finding.error(
                probe.address,
                f"{location} is another folder there than on other nodes: {len(lost)} of {len(written)} "
                "files are missing",
                "use storage that all nodes share: a mounted volume, or s3://…",
            )
    ray.get([probe.actor.remove.remote(location, name) for probe, name in written])


def _dashboard(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether the job server rejects requests without a token."""
    url = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR).dashboard_url  # of this connection
    if not url or not any(node.settings.get("RAY_AUTH_MODE") == "token" for node in nodes):
        return
    try:
        with urllib.request.urlopen(f"http://{url}/api/jobs/", timeout=10) as answer:
            yield Finding.error(
                url,
                f"the job server answers without a token ({answer.status})",
                "start every node, the head first, with RAY_AUTH_MODE=token",
            )
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            yield Finding.note(url, f"the job server answers {error.code} without a token")
    except OSError as error:
        yield Finding.note(url, f"the job server cannot be reached from here: {error}")


def _process_group(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether workers on all nodes can form a process group, with Gloo, or with NCCL if there are GPUs."""
    kind = "GPU" if any(node.resources.get("GPU") for node in nodes) else "CPU"
    backend = GPU_BACKENDS if kind == "GPU" else "gloo"
    able = [node for node in nodes if node.resources.get(kind) and node.versions["ray-st"]]
    if len(able) < 2:
        yield Finding.note(CLUSTER, f"{len(able)} node(s) for workers: nothing to try")
        return
    scaling = ScalingConfig(
        num_workers=len(able),
        use_gpu=kind == "GPU",
        resources_per_worker={kind: 0.01},
        placement_strategy="STRICT_SPREAD",
    )
    fault = _meeting_fault(scaling)
    if fault is not None:
        yield Finding.error(
            CLUSTER,
            f"workers on {len(able)} nodes could not form a {backend} group: {fault}",
            "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME on every node to the interface between hosts, "
            "before `ray start`",
        )


def _meeting_fault(scaling: ScalingConfig) -> str | None:
    """What prevents workers from forming a process group; None if each one sees all others."""
    with TemporaryDirectory(prefix="ray_st-") as scratch:
        once = FailureConfig(max_failures=0)
        run_config = RunConfig(name="doctor", storage_path=scratch, failure_config=once)
        config = dataclasses.replace(process_group(scaling), timeout_s=_JOIN_S)
        try:
            met = launch.run_workers(_meet, scaling, run_config, torch_config=config)
        except (RuntimeError, TrainingFailedError) as error:
            return str(error).strip().splitlines()[-1]
    return None if met == scaling.num_workers else f"only {met} met"


def _meet() -> int:
    """Number of nodes whose workers are in this worker's process group, on each of its backends."""
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        sum_over_ranks(torch.ones(1, device=device)).item()  # waits for NCCL, or raises its error
    return len(set(gather_objects(ray.get_runtime_context().get_node_id())))
