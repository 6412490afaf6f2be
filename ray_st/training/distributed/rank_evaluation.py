"""Evaluators on the ranks of a process group, outside of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_st.training.distributed.evaluator_team import together
from ray_st.world import World


@dataclass(frozen=True)
class Measured:
    """The results of evaluators.

    Args:
        figures: Metrics by name.
        primary_metrics: Each evaluator's ``primary_metric``, known after its first call, or None.
        card: The model's card data, with the metrics.
    """

    figures: dict[str, float]
    primary_metrics: tuple[str | None, ...]
    card: Any


def measure(
    model: Any,
    evaluators: Sequence[Callable[..., Any]],
    world: World,
    output_path: str | None = None,
    epoch: float = -1,
    steps: int = -1,
) -> Measured:
    """Runs evaluators; every rank must call it, and all get the same metrics.

    Args:
        model: The model, on this rank's device.
        evaluators: Evaluators, or any callables like them. One that returns a single number is named
            ``evaluator_{i}`` by its position.
        world: This process's rank and the number of ranks.
        output_path: Folder for the evaluators' files, which the first rank writes; None for none.
        epoch: Passed to the evaluators.
        steps: Likewise.

    Raises:
        PeerError: If an evaluator fails on another rank.
    """
    figures: dict[str, float] = {}
    with together(model, world):
        for place, evaluator in enumerate(evaluators):
            path = output_path if world.is_first else None
            found = evaluator(model, output_path=path, epoch=epoch, steps=steps)
            figures |= found if isinstance(found, Mapping) else {f"evaluator_{place}": found}
    return Measured(
        {name: float(value) for name, value in figures.items()},
        tuple(getattr(evaluator, "primary_metric", None) for evaluator in evaluators),
        getattr(model, "model_card_data", None),
    )
