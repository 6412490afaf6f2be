"""A run's events, logged by its first rank: its start, metrics and checkpoints."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from ray_st.util.events import event, speaks_json


class EventReport(TrainerCallback):
    """Logs checkpoints, and metrics where logs are JSON; in text logs, the progress report shows metrics.

    Args:
        trainer: The worker's trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Logs the metrics."""
        self._last = time.monotonic()
        if logs and _speaks(state):
            code = "eval.figures" if any(name.startswith("eval_") for name in logs) else "train.figures"
            event(code, f"step {state.global_step}/{state.max_steps}", step=state.global_step, figures=logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Records when a checkpoint may begin."""
        self._last = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Likewise."""
        self._last = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs a checkpoint."""
        if state.is_world_process_zero and self._trainer.checkpointer.newest == state.global_step:
            seconds = round(time.monotonic() - self._last, 3)
            message = f"step {state.global_step}/{state.max_steps}  checkpoint written"
            event("checkpoint.written", message, step=state.global_step, seconds=seconds)


def _speaks(state: Any) -> bool:
    return speaks_json() and bool(state.is_world_process_zero)
