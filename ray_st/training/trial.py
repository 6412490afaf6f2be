"""A trial of a search as a training run: what its trainer is made from, and how it reports evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_st.training.checkpoint.retuning import retune, settings_of
from ray_st.training.trainer_spec import TrainerSpec


@dataclass(frozen=True)
class Trial:
    """A trial, ready to run.

    Args:
        shell: Makes its data parts.
        description: Makes its trainer on a worker.
    """

    shell: Any
    description: TrainerSpec


class Reporting:
    """Mixed into a trial's trainer: reports each evaluation.

    Attributes:
        on_evaluated: Called on every rank with the trainer and the metrics.
    """

    on_evaluated: Callable[[Any, dict[str, float]], None] | None = None

    def _report_to_hp_search(self, trial: object, step: int, metrics: dict[str, float]) -> None:
        # transformers calls this once per evaluation, whatever the number of datasets.
        if self.on_evaluated is not None:
            self.on_evaluated(self, metrics)


class ReportingLate(Reporting):
    """Reports an evaluation at the end of its step, and overrides the checkpoint's arguments with its own.

    So a waiting trial has a checkpoint of what it reported, and a trial of a population continues from
    another's with other hyperparameters. An evaluation before the first step is not reported.
    """

    _figures: dict[str, float] | None = None

    def _report_to_hp_search(self, trial: object, step: int, metrics: dict[str, float]) -> None:
        self._figures = metrics

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._figures = None
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        self._report()

    def _report(self) -> None:
        if self._figures is not None and self.on_evaluated is not None:
            self.on_evaluated(self, self._figures)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        settings = settings_of(self.optimizer)
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            retune(self.optimizer, self.lr_scheduler, settings)


def reporting(kind: type[Any], how: type[Reporting] = Reporting) -> type[Any]:
    """A trainer's class that reports its evaluations."""
    return type(kind.__name__, (how, kind), {})
