"""Ray Train's configurations, made from the plain values of a run file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_st.world import WorkerRange

SCALING_KEYS = (
    "num_workers",
    "use_gpu",
    "resources_per_worker",
    "placement_strategy",
    "accelerator_type",
    "trainer_resources",
    "label_selector",
    "elastic_resize_monitor_interval_s",
)
"""Arguments of ``ScalingConfig`` that plain values can express."""

_MADE_OF_THE_TIME = re.compile(r"ray_train_run-\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")

RUN_KEYS = ("name", "storage_path", "max_failures")
"""Arguments of ``RunConfig`` that plain values can express, and one of its ``FailureConfig``."""


def scaling_config(values: Mapping[str, Any]) -> ScalingConfig | None:
    """Makes a ``ScalingConfig``.

    Args:
        values: Some of :data:`SCALING_KEYS`; ``num_workers`` may be a list of the least and the greatest
            number.

    Returns:
        The configuration; None if there are no values, in which case the cluster decides.

    Raises:
        ValueError: If Ray rejects a value.
    """
    if not values:
        return None
    workers = values.get("num_workers", 1)
    WorkerRange.of(workers)
    span = tuple(workers) if isinstance(workers, list) else workers
    try:
        return ScalingConfig(**{**values, "num_workers": span})
    except TypeError as error:
        raise ValueError(str(error)) from error


def run_config(values: Mapping[str, Any]) -> RunConfig | None:
    """Makes a ``RunConfig``.

    Args:
        values: Some of :data:`RUN_KEYS`.

    Returns:
        The configuration; None if there are no values.
    """
    if not values:
        return None
    rest = dict(values)
    failures = rest.pop("max_failures", None)
    if failures is not None:
        rest["failure_config"] = FailureConfig(max_failures=failures)
    return RunConfig(**rest)


def given_storage(run_config: RunConfig) -> str | None:
    """The storage path that the user gave to a run; None if Ray filled in its own default.

    Args:
        run_config: The user's configuration.
    """
    path = run_config.storage_path
    return None if path == RunConfig().storage_path else path


def given_name(run_config: RunConfig) -> str | None:
    """The name that the user gave to a run.

    None if Ray generated one from the time, under which a run cannot be found again.

    Args:
        run_config: The user's configuration.
    """
    name = run_config.name
    return None if name is None or _MADE_OF_THE_TIME.fullmatch(name) else name
