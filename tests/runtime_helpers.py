"""What several tests of whole runs share; workers import it too."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class KillOnce(TrainerCallback):
    """Kills its own process with SIGKILL at a step, on the last rank, the first time only."""

    def __init__(self, step: int, marker: Path) -> None:
        self.step, self.marker = step, marker

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (
            state.global_step == self.step
            and args.process_index == args.world_size - 1
            and not self.marker.exists()
        ):
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def difference(one: Any, other: Any) -> float:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
