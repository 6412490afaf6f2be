"""From a run on the driver to an outcome: feeds, a worker group, and what the first worker sends back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray.train import ControllerError, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_st.data.columns import check_rows
from ray_st.runtime.cluster import default_scaling
from ray_st.runtime.failures import RunStopped, StopAtRepeatableErrors
from ray_st.runtime.feeds import RayFeed, start_planner
from ray_st.runtime.ingest import ingest
from ray_st.runtime.worker import work
from ray_st.training.run import DataPart, Outcome, Run

RESTARTS = 3
"""How often a worker group is restarted when the user gave no ``run_config``."""


class FeedConfig(DataConfig):
    """Ray Train's door for datasets, opened for feeds: every rank gets the same small, picklable feed.

    Args:
        feeds: A feed for each dataset name.
    """

    def __init__(self, feeds: Mapping[str, RayFeed]) -> None:
        super().__init__()
        self._feeds = dict(feeds)

    def configure(self, datasets: Any, world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The feeds of each rank."""
        return [{name: self._feeds[name] for name in datasets} for _ in range(world_size)]


def make_feed(part: DataPart) -> RayFeed:
    """Encodes a dataset and starts its planner."""
    ingested = ingest(part.source, part.encoding, part.name)
    check_rows(len(ingested.keys), part.rows_needed, part.name)
    sampler = part.make_sampler(ingested.keys)
    planner = start_planner(sampler, part.epochs(len(ingested.keys)))
    steps = ray.get(planner.steps.remote())
    return RayFeed(ingested.blocks, part.encoding.columns, len(ingested.keys), steps, planner)


def launch(
    run: Run,
    feeds: Mapping[str, RayFeed],
    scaling: ScalingConfig,
    run_config: RunConfig,
) -> Outcome:
    """Runs workers until they end, restarting them as ``run_config`` allows.

    Args:
        run: What each worker does.
        feeds: Its data, by name.
        scaling: Number and kind of workers.
        run_config: Name and storage of the run.

    Returns:
        What the first worker sent back.
    """
    no_datasets: Any = dict.fromkeys(feeds)  # names only: the feeds come from the data config
    reference = ray.put(run)
    trainer = TorchTrainer(
        # A reference in a list: the run itself is not exported to dashboards, as a train_loop_config would be.
        _bind([reference]),
        scaling_config=scaling,
        run_config=_stopping_at_repeatable_errors(run_config),
        datasets=no_datasets,
        dataset_config=FeedConfig(feeds),
    )
    try:
        result: Any = trainer.fit()
    except ControllerError as error:
        if isinstance(error.controller_failure, RunStopped):
            raise error.controller_failure from None
        raise
    outcome = result.return_value
    assert isinstance(outcome, Outcome)
    return outcome


def _bind(held: list[Any]) -> Any:
    def train_loop_per_worker() -> Outcome | None:
        return work(ray.get(held[0]))

    return train_loop_per_worker


def complete_run_config(run_config: RunConfig | None, output_dir: str) -> RunConfig:
    """Where a run keeps its checkpoints: in ``output_dir``, unless the user's configuration says otherwise.

    Args:
        run_config: The user's, or None.
        output_dir: The training arguments' output folder.
    """
    parent, name = os.path.split(os.path.abspath(output_dir))
    if run_config is None:
        return RunConfig(name=name, storage_path=parent, failure_config=FailureConfig(max_failures=RESTARTS))
    if run_config.storage_path is None:
        run_config = dataclasses.replace(run_config, storage_path=parent, name=run_config.name or name)
    elif run_config.name is None:
        run_config = dataclasses.replace(run_config, name=name)
    return run_config


def _stopping_at_repeatable_errors(run_config: RunConfig) -> RunConfig:
    return dataclasses.replace(
        run_config,
        callbacks=[*(run_config.callbacks or []), StopAtRepeatableErrors()],  # type: ignore[list-item]
    )


def workers_of(scaling: ScalingConfig) -> int:
    """Number of workers of a scaling.

    Raises:
        ValueError: If it is a range: the global batch would change with the number of workers.
    """
    if not isinstance(scaling.num_workers, int):
        raise ValueError(f"scaling_config.num_workers must be a number; got {scaling.num_workers!r}.")
    return scaling.num_workers


def resolve_scaling(scaling: ScalingConfig | None) -> ScalingConfig:
    """The user's scaling, or the default for the cluster."""
    return scaling if scaling is not None else default_scaling()
