"""Ray Train's configurations from plain values, as a run file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig

SCALING_KEYS = (
    "num_workers",
    "use_gpu",
    "resources_per_worker",
    "placement_strategy",
    "accelerator_type",
    "trainer_resources",
    "label_selector",
)
"""Arguments of ``ScalingConfig`` that plain values can give."""

RUN_KEYS = ("name", "storage_path", "max_failures")
"""Arguments of ``RunConfig`` that plain values can give, and that of its ``FailureConfig``."""


def scaling_config(values: Mapping[str, Any]) -> ScalingConfig | None:
    """Make a ``ScalingConfig``.

    Args:
        values: Some of :data:`SCALING_KEYS`.

    Returns:
        The configuration; None without values, which leaves the choice to the cluster.

    Raises:
        ValueError: If Ray refuses a value.
    """
    workers = values.get("num_workers", 1)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise ValueError(f"num_workers: expected a whole number of at least 0, found {workers!r}")
    try:
        return ScalingConfig(**values) if values else None
    except TypeError as error:
        raise ValueError(str(error)) from error


def run_config(values: Mapping[str, Any]) -> RunConfig | None:
    """Make a ``RunConfig``.

    Args:
        values: Some of :data:`RUN_KEYS`.

    Returns:
        The configuration; None without values.
    """
    if not values:
        return None
    rest = dict(values)
    failures = rest.pop("max_failures", None)
    if failures is not None:
        rest["failure_config"] = FailureConfig(max_failures=failures)
    return RunConfig(**rest)
