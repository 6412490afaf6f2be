"""Early stopping by dominance, as a scheduler of Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ray_st.study.dominance import DominanceRungs
from ray_st.study.halving import Rungs

OBJECTIVES, VIOLATION, EVALUATION = "objectives", "violation", "evaluation"
"""Keys of a trial's reports."""


class DominanceScheduler(FIFOScheduler):
    """Stops a trial at a rung unless it is among the best there, by :mod:`ray_st.study.dominance`.

    Args:
        directions: One for each objective.
        grace_period: Evaluations before the first rung.
        reduction_factor: One in this many trials continues at each rung.
    """

    def __init__(self, directions: Sequence[str], grace_period: int, reduction_factor: int) -> None:
        super().__init__()
        self._rungs = DominanceRungs(Rungs(grace_period, reduction_factor), directions)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Decides whether a trial continues after an evaluation."""
        return TrialScheduler.CONTINUE if self._continues(trial, result) else TrialScheduler.STOP

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Takes account of the last evaluation of a trial that ended by itself or for a constraint."""
        self._continues(trial, result)

    def _continues(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        if OBJECTIVES not in result:
            return True
        violation = result.get(VIOLATION, 0.0)
        return self._rungs.arrive(trial.trial_id, result[EVALUATION], result[OBJECTIVES], violation)
