"""Connecting to the Ray cluster that a run uses."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import ray
from ray._private import ray_constants
from ray.train import ScalingConfig

from ray_st.util.cluster_address import check_answers, found_address, is_loopback
from ray_st.util.events import notes
from ray_st.util.signals import children_apart, handlers_kept
from ray_st.world import WorkerRange

NODE_ID = "ray.io/node-id"
"""The label that holds the id of a Ray node."""


class _Own:
    """The local Ray that this process started; it runs until the process ends or ``ray.shutdown()``.

    Attributes:
        address: Its address; None before it is started.
        calls: Number of nested calls that currently use a cluster.
    """

    address: str | None = None
    calls = 0

    @classmethod
    def is_connected(cls) -> bool:
        """Whether this process is connected to it."""
        return ray.is_initialized() and ray.get_runtime_context().gcs_address == cls.address


@contextmanager
def connected() -> Iterator[None]:
    """Uses the cluster this process is connected to, or one that Ray finds, or starts a local one.

    A local Ray that is started here is kept for later calls, and Ray stops it when the process ends; it is
    shut down early only on an interrupt, so that interrupted work does not continue in it. A connection to an
    existing cluster is closed again: reconnecting takes a second, and Ray kills a process whose cluster
    disappears. Signal handlers are restored on exit.

    Raises:
        ConnectionError: If the cluster that the user connected to, or that Ray would join, is gone.
    """
    with handlers_kept():
        leaves = _connect()
        _Own.calls += 1
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            leaves = leaves or (_Own.calls == 1 and _Own.is_connected())
            raise
        finally:
            _Own.calls -= 1
            if leaves:
                ray.shutdown()


@contextmanager
def connected_if_any() -> Iterator[bool]:
    """Like :func:`connected`, but starts no local Ray.

    Returns:
        Whether there is a cluster.
    """
    if not ray.is_initialized() and found_address() is None:
        yield False
        return
    with connected():
        yield True


def _connect() -> bool:
    """Connects unless there already is a working connection.

    Returns:
        Whether to close the connection at the end.
    """
    if ray.is_initialized():
        if any(node["Alive"] for node in ray.nodes()):
            return False
        if not _Own.is_connected():
            address = ray.get_runtime_context().gcs_address
            raise ConnectionError(
                f"The Ray cluster at {address}, to which this process is connected, has no live node. "
                "Call ray.shutdown(), then ray.init() with the address of another one."
            )
        notes.info("the local Ray of this process was lost")
        ray.shutdown()
    joins = found_address()
    if joins is not None:
        expect(joins)
    # If set, Ray's own variable forwards its messages, and all worker output, to this console.
    log_to_driver = None if "RAY_LOG_TO_DRIVER" in os.environ else False
    with children_apart():
        ray.init(log_to_driver=log_to_driver, logging_level=logging.ERROR)
    if joins is not None or "://" in os.environ.get("RAY_ADDRESS", ""):
        return True
    _Own.address = ray.get_runtime_context().gcs_address
    notes.info("started a local Ray; it stays until this program ends, or until ray.shutdown()")
    return False


def expect(address: str) -> None:
    """Checks that a cluster answers before joining it: Ray itself would wait for minutes.

    Args:
        address: HOST:PORT.

    Raises:
        ConnectionError: If nothing answers there.
    """
    check_answers(address)
    if is_loopback(address):
        # `ray-st cluster start` made it for this machine only. Ray read this setting at import time; if it
        # is on, Ray looks for the cluster at a network address, where nothing listens.
        ray_constants.ENABLE_RAY_CLUSTER = False


def default_scaling() -> ScalingConfig:
    """One worker for each GPU of the cluster, or one CPU worker."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return ScalingConfig(num_workers=max(gpus, 1), use_gpu=gpus > 0)


def takes_all_cores(scaling: ScalingConfig | None) -> bool:
    """Whether a worker computes with all cores of its node.

    True for a single CPU worker, unless the user configured scaling or threads.

    Ray gives a worker as many threads as it requested CPUs, one by default; on an otherwise idle machine most
    cores would be unused.

    Args:
        scaling: The user's scaling config, or None.
    """
    return scaling is None and "OMP_NUM_THREADS" not in os.environ and not default_scaling().use_gpu


def this_node() -> dict[str, str]:
    """The label selector of this process's node."""
    return {NODE_ID: ray.get_runtime_context().get_node_id()}


def resources(here: bool) -> dict[str, float]:
    """The total resources of the cluster, or of this process's node only."""
    if not here:
        return dict(ray.cluster_resources())
    return next(dict(node["Resources"]) for node in ray.nodes() if node["NodeID"] == this_node()[NODE_ID])


def cores_of_node() -> int:
    """The CPUs of this process's node as counted by Ray, which respects container limits."""
    return max(int(resources(here=True).get("CPU", 0)), 1)


def resources_of_worker(scaling: ScalingConfig) -> dict[str, float]:
    """The resources of each worker, by resource name."""
    each: dict[str, float] = dict(scaling.resources_per_worker or {})  # type: ignore[arg-type]
    each.setdefault("GPU" if scaling.use_gpu else "CPU", 1)
    return each


def check_fits(scaling: ScalingConfig, background: Mapping[str, float] = MappingProxyType({})) -> None:
    """Rejects a run that requests more than the cluster has and would therefore wait forever.

    Args:
        scaling: Number and kind of workers.
        background: Resources of the background evaluation process, by name; empty if there is none.

    Raises:
        ValueError: If resources are lacking; names those requested and those the cluster has.
    """
    span, each = WorkerRange.of(scaling.num_workers), resources_of_worker(scaling)
    workers = span.least
    have = ray.cluster_resources()
    wanted = {name: each.get(name, 0) * workers + background.get(name, 0) for name in {**each, **background}}
    lacking = {name: amount for name, amount in wanted.items() if amount > have.get(name, 0)}
    if lacking:
        found = {name: have.get(name, 0) for name in lacking}
        who = remedy = ""
        if background:
            who = f' and an evaluation beside them (eval_on="background") with {dict(background)}'
            remedy = ", give other eval_resources"
        least = "" if span.is_fixed else "at least "
        raise ValueError(
            f"{least}{workers} worker(s) with {each} each{who} need {lacking}; the cluster has {found}. "
            f"Lower scaling_config.num_workers or resources_per_worker{remedy}, or add nodes."
        )
