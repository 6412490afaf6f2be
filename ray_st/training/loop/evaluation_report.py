"""How a search's trial reports an evaluation: at once, or when the rest of the step is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ray_st.training.loop.hf_loop import HfLoop


class EvaluationReport(Protocol):
    """Takes the metrics of each evaluation, on every rank.

    Attributes:
        late: Whether it is called when all else of the step is done, so that a checkpoint of the step can
            exist, and not for an evaluation before the first step. A trial that waits for others, or goes on
            from another's checkpoint, reports late, and keeps its own hyperparameters in place of the
            checkpoint's.
    """

    late: bool

    def __call__(self, trainer: HfLoop, metrics: Mapping[str, float]) -> None:
        """Takes an evaluation's metrics."""
