"""The example of a whole retriever, killed once in the middle of its reranker's training; writes down its steps."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ray.train import ScalingConfig
from transformers import TrainerCallback

import retriever_pipeline
from offline import start
from ray_st import CrossEncoderTrainer

KILLED = Path("killed")
STEPS = Path("steps.txt")


class KillOnce(TrainerCallback):
    """Kills this process at the end of the third step, before its checkpoint, unless that was done before."""

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Writes the step down."""
        with STEPS.open("a") as stream:
            stream.write(f"{state.global_step}\n")
        if state.global_step == 3 and not KILLED.exists():
            KILLED.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Killed(CrossEncoderTrainer):
    """A trainer with the callback."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given, callbacks=[KillOnce()])


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Runs the example in this process, with a checkpoint at each step."""
    retriever_pipeline.CrossEncoderTrainer = Killed  # type: ignore[misc]
    retriever_pipeline.ARGS |= {"per_device_train_batch_size": 8, "save_steps": 1}
    retriever_pipeline.main(ScalingConfig(num_workers=0))


if __name__ == "__main__":
    start(main)
