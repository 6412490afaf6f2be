"""Evaluators on Ray workers: encoding is distributed, the metrics equal those of one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

from ray.train import RunConfig, ScalingConfig

from ray_st.models.attention import of_packages
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.cluster import connection
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.node_attention import check_attention_of_workers
from ray_st.runtime.train import launch
from ray_st.runtime.train.process_group import process_group
from ray_st.runtime.train.worker import world_of_worker
from ray_st.training.distributed.evaluator_team import Measured, measure
from ray_st.world import World


def evaluate_on_workers(
    model: SentenceTransformer,
    evaluators: Callable[..., Any] | Sequence[Callable[..., Any]],
    scaling_config: ScalingConfig | None = None,
    output_path: str | None = None,
    epoch: float = -1,
    steps: int = -1,
) -> dict[str, float]:
    """Evaluates a model on the cluster that this process is connected to, or that Ray finds.

    Afterwards the evaluators' ``primary_metric`` and the metrics in the model's card are set, as if the
    evaluators had run locally.

    Args:
        model: The model; each worker gets a copy of it.
        evaluators: One or several evaluators, or callables with the same signature.
        scaling_config: Number and kind of workers; by default one per GPU of the cluster, or one CPU worker.
            ``num_workers=0`` evaluates in this process. Of a range, as many as there is room for now.
        output_path: Folder for the evaluators' CSV files; the first worker writes them and must see it.
        epoch: Passed to the evaluators, for their files.
        steps: Passed to the evaluators, for their files.

    Returns:
        Metrics by name, identical to the last digit for any number of workers of the same kind.

    Raises:
        ValueError: If the cluster has too few resources for the workers, or a node lacks the model's
            attention.
        RunStopped: If an evaluator fails.
    """
    asked = list(evaluators) if isinstance(evaluators, Sequence) else [evaluators]
    folder = os.path.abspath(output_path) if output_path else None
    if launch.runs_here(scaling_config):
        return measure(model, asked, World(), folder, epoch, steps).metrics
    with connection.connected(), TemporaryDirectory(prefix="ray_st-") as scratch:
        scaling = launch.resolve_scaling(scaling_config)
        connection.check_fits(scaling)
        check_attention_of_workers(of_packages([model]), scaling)
        scaling = launch.with_fixed_number(scaling)

        def work() -> Measured | None:
            world, device = world_of_worker(), take_granted_device()
            measured = measure(model.to(device), asked, world, folder, epoch, steps)
            return measured if world.is_first else None

        run_config = RunConfig(name="evaluate", storage_path=scratch)
        measured = launch.run_workers(work, scaling, run_config, torch_config=process_group(scaling))
    if measured.card is not None:
        model.model_card_data = measured.card
    for evaluator, primary in zip(asked, measured.primary_metrics, strict=True):
        if primary is not None:
            evaluator.primary_metric = primary  # type: ignore[attr-defined]
    return measured.metrics
