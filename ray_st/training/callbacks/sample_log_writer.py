"""Records which rows each step used, with ``ledger=True``."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerState

from ray_st.data.plan import Indices
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint.sample_log import SampleLog


class SampleLogWriter(LoopCallback):
    """Writes one line per step, and removes those of steps that a resumed run repeats.

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
