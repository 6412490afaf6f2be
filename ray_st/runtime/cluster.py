"""The Ray cluster that a run uses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import ray
from ray.train import ScalingConfig

NODE_ID = "ray.io/node-id"
"""The label by which Ray names a node."""


@contextmanager
def connected() -> Iterator[None]:
    """Uses the cluster that this process is connected to, or the one that Ray finds; starts one if there is none.

    A connection (or local cluster) that is opened here is closed again at the end.
    """
    if ray.is_initialized():
        yield
        return
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def default_scaling() -> ScalingConfig:
    """One worker for each GPU of the cluster, or one CPU worker."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return ScalingConfig(num_workers=max(gpus, 1), use_gpu=gpus > 0)


def check_fits(scaling: ScalingConfig, beside: Mapping[str, float] = MappingProxyType({})) -> None:
    """Refuses a run that asks for more than the cluster has, which would wait for ever.

    Args:
        scaling: Number and kind of workers.
        beside: What the process that evaluates beside them gets, by the name of the resource; nothing without one.

    Raises:
        ValueError: Naming what is asked for and what the cluster has.
    """
    workers = scaling.num_workers
    if not isinstance(workers, int):
        return
    each: dict[str, float] = dict(scaling.resources_per_worker or {})  # type: ignore[arg-type]
    each.setdefault("GPU" if scaling.use_gpu else "CPU", 1)
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
