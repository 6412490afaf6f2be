"""What the first rank reports of a run: a bar on a terminal, plain lines in a job's log, events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.callbacks.run_header import computing, note_on_precision
from ray_st.training.checkpoint.store import Settled
from ray_st.util.events import event, speaks_json


class Bar(Protocol):
    """The part of tqdm's interface that is used."""

    def update(self, n: int = 1) -> Any:
        """Advances by n steps."""

    def set_description(self, desc: str) -> Any:
        """Sets the text before the bar."""

    def close(self) -> Any:
        """Closes the bar."""


OpenBar = Callable[[int], Bar]


class ProgressReport(TrainerCallback):
    """Shows steps, loss, samples per second, and each evaluation's metrics, on the first rank only.

    Args:
        open_bar: Opens a bar of so many steps on the user's terminal; None writes plain lines with ``write``.
        write: Writes one line to the user.
        every_s: Minimum seconds between two plain progress lines.
    """

    def __init__(
        self,
        open_bar: OpenBar | None,
        write: Callable[[str], None],
        every_s: float = 5.0,
    ) -> None:
        self._open_bar, self._write, self._every_s = open_bar, write, every_s
        self._bar: Bar | None = None
        self._loss = ""
        self._start = self._last = 0.0
        self._first_step = self._seen = 0
        self._global_batch = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the bar when training starts or resumes."""
        if not state.is_world_process_zero:
            return
        self._start = self._last = time.monotonic()
        self._first_step = self._seen = state.global_step
        batch = getattr(args, "global_train_batch_size", None)  # transformers' own arguments lack it
        batch = batch or args.per_device_train_batch_size * args.world_size
        self._global_batch = batch * args.gradient_accumulation_steps
        from_where = f"going on after step {state.global_step} of" if state.global_step else "training for"
        workers = f"{args.world_size} workers, each: " if args.world_size > 1 else ""
        self._write(f"{workers}{computing(args)}; {from_where} {state.max_steps} steps")
        if note := note_on_precision(args):
            self._write(note)
        if self._open_bar is not None:
            self._bar = self._open_bar(state.max_steps)
            self._bar.update(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advances the bar, or writes a line every few seconds."""
        if not state.is_world_process_zero:
            return
        if self._bar is not None:
            self._bar.update(state.global_step - self._seen)
            self._bar.set_description(self._describe(state))
        elif time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            self._write(f"step {state.global_step}/{state.max_steps}  {self._describe(state)}")
        self._seen = state.global_step

    def _describe(self, state: TrainerState) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (state.global_step - self._first_step) * self._global_batch / seconds
        return f"{self._loss}{rate:.0f} samples/s"

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Stores the loss; writes everything else (evaluations, final metrics) as a line."""
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._loss = f"loss {logs['loss']:.4f}  "
        elif "train_runtime" in logs:
            self._write(
                f"trained to step {state.global_step}/{state.max_steps} in {logs['train_runtime']:.0f} s"
                f"  mean loss {logs.get('train_loss', 0):.4f}"
            )
        else:
            metrics = "  ".join(f"{key} {_short(value)}" for key, value in logs.items() if key != "epoch")
            self._write(f"step {state.global_step}/{state.max_steps}  {metrics}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _short(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class EventReport(TrainerCallback, LoopCallback):
    """Logs checkpoints, and metrics where logs are JSON; in text logs, the progress report shows metrics."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Logs the metrics."""
        if logs and state.is_world_process_zero and speaks_json():
            code = "eval.figures" if any(name.startswith("eval_") for name in logs) else "train.figures"
            event(code, f"step {state.global_step}/{state.max_steps}", step=state.global_step, figures=logs)

    def on_checkpoint(self, state: TrainerState, settled: Settled) -> None:
        """Logs a complete checkpoint."""
        if state.is_world_process_zero and settled.checkpoint is not None:
            message = f"step {settled.step}/{state.max_steps}  checkpoint written"
            event("checkpoint.written", message, step=settled.step, seconds=round(settled.seconds, 3))
