"""Stopping at a step that all ranks agree on, after a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.training.distributed import collectives
from ray_st.training.worker_context import WorkerContext
from ray_st.util.endings import Interrupted, Moved, StopRequest, Why
from ray_st.util.events import event, speaks_json

EVERY_S = 2.0
"""Seconds between two exchanges; at least one step."""

REASONS = {
    Why.RESIZED: "the number of workers changes",
    Why.LEAVE: "a worker was told to end",
    Why.PREEMPTED: "a node is being taken away",
    Why.STOP: "the run was told to stop",
}


class StopConsensus(TrainerCallback):
    """About every two seconds, the ranks exchange stop requests and their speed.

    The number of steps between two exchanges follows from the last exchange, whose result is the same on all
    ranks: so all ranks take part at the same step, and act on the outcome at the same step.

    Args:
        context: The worker's context.
        request: This process's stop request.
        preempted: Whether a node of the run is being preempted; every rank calls it equally often.
        pace: Returns this rank's seconds of forward computation since the last call.
        every_s: Seconds between two exchanges.

    Attributes:
        skew: The slowest rank's forward seconds over the mean of all; 1 if all are equal.
    """

    def __init__(
        self,
        context: WorkerContext,
        request: StopRequest,
        preempted: Callable[[], bool] = bool,
        pace: Callable[[], float] = float,
        every_s: float = EVERY_S,
    ) -> None:
        self._context, self._request, self._preempted, self._pace = context, request, preempted, pace
        self._every_s = every_s
        self._next = self._last_step = 0
        self._last = 0.0
        self._agreed = Why.GO_ON
        self.skew = 1.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Schedules the first exchange at the end of the first step."""
        self._agreed = Why.GO_ON
        self._last_step, self._next = state.global_step, state.global_step + 1
        self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Exchanges requests when due; if the ranks agree to stop, requests a save and no evaluation."""
        step = state.global_step
        if step < self._next or step >= state.max_steps:
            return
        self._agreed = self._exchange(step)
        if self._agreed:
            # The loop waits for the last checkpoint of a training that ends.
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def _exchange(self, step: int) -> Why:
        if self._preempted():
            self._request.ask(Why.PREEMPTED)
        now = time.monotonic()
        mine = self._request.why, (now - self._last) / (step - self._last_step), self._pace()
        reasons, seconds, forward = zip(*collectives.gather_objects(mine), strict=True)
        self._last, self._last_step = now, step
        self._next = step + max(1, int(self._every_s / max(max(seconds), 1e-3)))
        mean = sum(forward) / len(forward)
        self.skew = max(forward) / mean if mean > 0 else 1.0
        return max(reasons)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops after the checkpoint.

        Raises:
            Interrupted: If the run should end.
            Moved: If the run should resume on other nodes.
        """
        if not self._agreed:
            return
        message = f"{REASONS[self._agreed]}: stopped after step {state.global_step} of {state.max_steps}"
        # The driver shows this to the user in the run's last line.
        if state.is_world_process_zero and (self._agreed is not Why.STOP or speaks_json()):
            event("stop.saved", message, step=state.global_step, reason=self._agreed.name.lower())
        if self._agreed is Why.STOP:
            raise Interrupted(
                f"{message}; its checkpoint is in {self._context.store.path}: go on with "
                "train(resume_from_checkpoint=True), or ray-st train RUN.yaml --continue"
            )
        raise Moved(self._agreed, message)
