"""How a search trial reports an evaluation: immediately, or after the rest of the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ray_st.training.loop.hf_loop import HfLoop


class EvaluationReport(Protocol):
    """Receives the metrics of each evaluation, on every rank.

    Attributes:
        late: Whether it is called after the rest of the step, so that a checkpoint of the step can exist, and
            not for an evaluation before the first step. A trial that waits for others, or resumes from
            another trial's checkpoint, reports late and keeps its own hyperparameters instead of the
            checkpoint's.
    """

    late: bool

    def __call__(self, trainer: HfLoop, metrics: Mapping[str, float]) -> None:
        """Receives an evaluation's metrics."""
