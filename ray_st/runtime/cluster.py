"""The Ray cluster that a run uses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.train import ScalingConfig


@contextmanager
def connected() -> Iterator[None]:
    """Uses the cluster that this process is connected to, or the one that Ray finds; starts one if there is none.

    A connection (or local cluster) that is opened here is closed again at the end.
    """
    if ray.is_initialized():
        yield
        return
    ray.init(logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def default_scaling() -> ScalingConfig:
    """One worker for each GPU of the cluster, or one CPU worker."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return ScalingConfig(num_workers=max(gpus, 1), use_gpu=gpus > 0)


def check_fits(scaling: ScalingConfig) -> None:
    """Refuses a run that asks for more than the cluster has, which would wait for ever.

    Raises:
        ValueError: Naming what is asked for and what the cluster has.
    """
    workers = scaling.num_workers
    if not isinstance(workers, int):
        return
    each: dict[str, float] = dict(scaling.resources_per_worker or {})  # type: ignore[arg-type]
    each.setdefault("GPU" if scaling.use_gpu else "CPU", 1)
    have = ray.cluster_resources()
    lacking = {
        name: amount * workers for name, amount in each.items() if amount * workers > have.get(name, 0)
    }
    if lacking:
        found = {name: have.get(name, 0) for name in lacking}
        raise ValueError(
            f"{workers} worker(s) with {each} each need {lacking}; the cluster has {found}. "
            "Lower scaling_config.num_workers or resources_per_worker, or add nodes."
        )
