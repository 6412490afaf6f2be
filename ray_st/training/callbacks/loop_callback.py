"""What takes part in a worker's loop at turns that transformers' callbacks do not have."""

from __future__ import annotations

from transformers import TrainerControl, TrainerState

from ray_st.training.checkpoint.store import SavedCheckpoint


class LoopCallback:
    """Called by :class:`ray_st.training.loop.hf_loop.HfLoop` on every rank, in the order of its list.

    Every turn may be left out.
    """

    def on_open(self, state: TrainerState) -> None:
        """The trainer's state is there, new or from a checkpoint; the first step follows."""

    def on_step_done(self, state: TrainerState) -> None:
        """The optimizer has moved; nothing was logged, evaluated or saved yet."""

    def before_outputs(self, state: TrainerState, control: TrainerControl) -> None:
        """What the control says is about to be logged, evaluated and saved."""

    def on_checkpoint(self, state: TrainerState, checkpoint: SavedCheckpoint) -> None:
        """A checkpoint is complete in the run's storage."""

    def after_outputs(self, saved: bool) -> None:
        """All was logged, evaluated and saved.

        Args:
            saved: Whether a checkpoint was to be written.
        """

    def on_close(self, state: TrainerState, failed: bool) -> None:
        """Training has ended.

        Args:
            state: The trainer's state.
            failed: Whether by an error.
        """
