"""Callbacks of a worker's loop for events that transformers' callbacks do not have; the sample log is one."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerControl, TrainerState

from ray_st.data.plan import Indices
from ray_st.training.checkpoint.sample_log import SampleLog
from ray_st.training.checkpoint.store import Settled


class LoopCallback:
    """Called by :class:`ray_st.training.loop.hf_loop.HfLoop` on every rank, in the order of its list.

    Every method is optional.
    """

    def on_open(self, state: TrainerState) -> None:
        """Called before the first step, once the trainer's state is initialized or restored."""

    def on_step_done(self, state: TrainerState) -> None:
        """Called after the optimizer step, before anything is logged, evaluated or saved."""

    def before_outputs(self, state: TrainerState, control: TrainerControl) -> None:
        """Called before the loop logs, evaluates and saves according to the control."""

    def on_checkpoint(self, state: TrainerState, settled: Settled) -> None:
        """Called when a checkpoint is complete in the run's storage, or could not be written.

        Training may have made further steps since. Also called on transformers' callbacks that are
        loop callbacks, after those of the list.

        Args:
            state: The trainer's state.
            settled: The checkpoint and its step.
        """

    def after_outputs(self, saved: bool) -> None:
        """Called after the loop has logged, evaluated and saved.

        Args:
            saved: Whether a checkpoint was due.
        """

    def on_close(self, state: TrainerState, failed: bool) -> None:
        """Called when training has ended.

        Args:
            state: The trainer's state.
            failed: Whether it ended with an error.
        """


class SampleLogWriter(LoopCallback):
    """Records which rows each step used (``ledger=True``), one line per step.

    Removes the lines of steps that a resumed run repeats.

    Args:
        log: The file.
        used: Returns the row numbers of the step's global batches.
    """

    def __init__(self, log: SampleLog, used: Callable[[], list[Indices]]) -> None:
        self._log, self._used = log, used

    def on_open(self, state: TrainerState) -> None:
        """Removes the lines of steps after this one."""
        self._log.rewind(state.global_step)

    def on_step_done(self, state: TrainerState) -> None:
        """Writes the step's line; there is none at the end of an epoch."""
        if used := self._used():
            self._log.write(state.global_step, used)
