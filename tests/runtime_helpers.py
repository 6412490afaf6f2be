"""What tests of whole runs share and send to workers, by value: workers do not have tests on their path."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ray_st import SentenceTransformerTrainer


class Remember(TrainerCallback):
    """Keeps what it saw, to show that a callback's attributes come back to the caller."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


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


class HangOnce(KillOnce):
    """Makes no progress from a step on, on the last rank, the first time only."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = args.process_index == args.world_size - 1
        if state.global_step == self.step and last and not self.marker.exists():
            self.marker.touch()
            threading.Event().wait()


class AlwaysHarmed(TrainerCallback):
    """Harms its own process at the first step of each run with a learning rate.

    Args:
        way: ``"kill"`` or ``"hang"``.
        rate: The learning rate.
        log: Gets a line each time.
    """

    def __init__(self, way: str, rate: float, log: Path) -> None:
        self.way, self.rate, self.log = way, rate, log

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.learning_rate == self.rate:
            with self.log.open("a") as stream:
                stream.write("harmed\n")
            if self.way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def difference(one: Any, other: Any) -> float:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


class Doubled(SentenceTransformerTrainer):
    """A user's subclass with a constructor of its own and another loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = 2.0

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().compute_loss(*args, **kwargs) * self.factor


class Jittered(SentenceTransformerTrainer):
    """Draws a random number for each loss: what a run makes of its seed, rank by rank, shows in every figure."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().compute_loss(*args, **kwargs) * (1 + torch.rand(()) / 8)
