"""The Ray cluster that a run uses."""

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

NODE_ID = "ray.io/node-id"
"""The label by which Ray names a node."""


class _Own:
    """The local Ray that this process started; it stays until the process ends or ``ray.shutdown()``.

    Attributes:
        address: Where it is; None before there is one.
        calls: How many calls use a cluster now, one within the other.
    """

    address: str | None = None
    calls = 0

    @classmethod
    def is_connected(cls) -> bool:
        """Whether this process is connected to it."""
        return ray.is_initialized() and ray.get_runtime_context().gcs_address == cls.address


@contextmanager
def connected() -> Iterator[None]:
    """Uses the cluster that this process is connected to, or one that Ray finds, or starts a local one.

    A local Ray that is started here stays for later calls, and Ray ends it with the process; only what is
    interrupted must not go on in it. A connection to a cluster that was there is closed again: it is made in
    a second, and Ray ends a process whose cluster has gone. Handlers of signals are afterwards what they
    were.

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


def _connect() -> bool:
    """Connects where there is no connection that works.

    Returns:
        Whether the connection is to be closed at the end.
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
    # Ray's own variable brings its messages, and all that workers print, to this console.
    log_to_driver = None if "RAY_LOG_TO_DRIVER" in os.environ else False
    with children_apart():
        ray.init(log_to_driver=log_to_driver, logging_level=logging.ERROR)
    if joins is not None or "://" in os.environ.get("RAY_ADDRESS", ""):
        return True
    _Own.address = ray.get_runtime_context().gcs_address
    notes.info("started a local Ray; it stays until this program ends, or until ray.shutdown()")
    return False


def expect(address: str) -> None:
    """Makes ready to join a cluster: Ray waits for minutes where none answers.

    Args:
        address: HOST:PORT.

    Raises:
        ConnectionError: If nothing answers there.
    """
    check_answers(address)
    if is_loopback(address):
        # `ray-st cluster start` made it for this machine alone. Ray read this setting when it was imported;
        # with it on, it looks for the cluster at an address of the network, where nothing listens.
        ray_constants.ENABLE_RAY_CLUSTER = False


def default_scaling() -> ScalingConfig:
    """One worker for each GPU of the cluster, or one CPU worker."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return ScalingConfig(num_workers=max(gpus, 1), use_gpu=gpus > 0)


def takes_all_cores(scaling: ScalingConfig | None) -> bool:
    """Whether a worker computes with all cores of its node.

    It does if it is the only one, on a CPU, and nobody said otherwise.

    Ray gives a worker as many threads as it asked for CPUs, one by default; on a machine that has nothing
    else to do, most cores would idle.

    Args:
        scaling: The user's, or None.
    """
    return scaling is None and "OMP_NUM_THREADS" not in os.environ and not default_scaling().use_gpu


def cores_of_node() -> int:
    """The CPUs that this process's node has, by Ray's count, which knows a container's limit."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == here)
    return max(int(node["Resources"].get("CPU", 0)), 1)


def resources_of_worker(scaling: ScalingConfig) -> dict[str, float]:
    """What each worker of a scaling gets, by the name of the resource."""
    each: dict[str, float] = dict(scaling.resources_per_worker or {})  # type: ignore[arg-type]
    each.setdefault("GPU" if scaling.use_gpu else "CPU", 1)
    return each


def check_fits(scaling: ScalingConfig, beside: Mapping[str, float] = MappingProxyType({})) -> None:
    """Refuses a run that asks for more than the cluster has, which would wait for ever.

    Args:
        scaling: Number and kind of workers.
        beside: What the process that evaluates beside them gets, by the name of the resource; nothing without
            one.

    Raises:
        ValueError: Naming what is asked for and what the cluster has.
    """
    workers = scaling.num_workers
    if not isinstance(workers, int):
        return
    each = resources_of_worker(scaling)
    have = ray.cluster_resources()
    wanted = {name: each.get(name, 0) * workers + beside.get(name, 0) for name in {**each, **beside}}
    lacking = {name: amount for name, amount in wanted.items() if amount > have.get(name, 0)}
    if lacking:
        found = {name: have.get(name, 0) for name in lacking}
        who = f' and an evaluation beside them (eval_on="background") with {dict(beside)}' if beside else ""
        remedy = ", give other eval_resources" if beside else ""
        raise ValueError(
            f"{workers} worker(s) with {each} each{who} need {lacking}; the cluster has {found}. "
            f"Lower scaling_config.num_workers or resources_per_worker{remedy}, or add nodes."
        )
