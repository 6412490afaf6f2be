"""Evaluators on Ray workers: encoding is shared, the figures are those of one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig

from ray_st.runtime.cluster import connection
from ray_st.runtime.train import launch, storage
from ray_st.runtime.train.worker import world_of_worker
from ray_st.training.distributed.rank_evaluation import Measured, measure
from ray_st.world import World

if TYPE_CHECKING:
    from ray_st.models.sentence_transformer import SentenceTransformer


def evaluate_on_workers(
    model: SentenceTransformer,
    evaluators: Callable[..., Any] | Sequence[Callable[..., Any]],
    scaling_config: ScalingConfig | None = None,
    output_path: str | None = None,
    epoch: float = -1,
    steps: int = -1,
) -> dict[str, float]:
    """Measures a model on a cluster, the one that this process is connected to or the one that Ray finds.

    Afterwards evaluators know their ``primary_metric`` and the model's card its figures, as if they had run
    in place.

    Args:
        model: The model; each worker gets a copy of it.
        evaluators: An evaluator or several, or any callables like them.
        scaling_config: Number and kind of workers; by default one for each GPU of the cluster, or one CPU
            worker. ``num_workers=0`` evaluates in this process.
        output_path: Folder for the evaluators' CSV files, which the first worker writes: one that it can see.
        epoch: Passed to the evaluators, for their files.
        steps: Likewise.

    Returns:
        The figures by name, the same to the last digit for any number of workers of one kind.

    Raises:
        ValueError: If the cluster has too little for the workers.
        RunStopped: If an evaluator fails.
    """
    asked = list(evaluators) if isinstance(evaluators, Sequence) else [evaluators]
    folder = os.path.abspath(output_path) if output_path else None
    if launch.runs_here(scaling_config):
        return measure(model, asked, World(), folder, epoch, steps).figures
    with connection.connected(), storage.run_folder("", keeps=False) as scratch:
        scaling = launch.resolve_scaling(scaling_config)
        connection.check_fits(scaling)

        def work() -> Measured | None:
            return _measure(model, asked, output_path=folder, epoch=epoch, steps=steps)

        run_config = RunConfig(name="evaluate", storage_path=scratch)
        measured: Measured = launch.run_workers(work, scaling, run_config)
    _take_over(model, asked, measured)
    return measured.figures


def _measure(
    model: SentenceTransformer, evaluators: Sequence[Callable[..., Any]], **options: Any
) -> Measured | None:
    world, device = world_of_worker(), ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collectives of objects use the current one
    measured = measure(model.to(device), evaluators, world, **options)
    return measured if world.is_first else None


def _take_over(
    model: SentenceTransformer, evaluators: Sequence[Callable[..., Any]], measured: Measured
) -> None:
    if measured.card is not None:
        model.model_card_data = measured.card
    for evaluator, primary in zip(evaluators, measured.primary_metrics, strict=True):
        if primary is not None:
            evaluator.primary_metric = primary  # type: ignore[attr-defined]
