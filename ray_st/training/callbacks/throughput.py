"""Operational metrics of a run: time per part of a step, throughput, loss, goodput."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.models.module import first_of, skips_padding
from ray_st.models.whole_model import WholeModel
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint.store import Settled

if TYPE_CHECKING:
    from ray_st.training.loop.hf_loop import HfLoop

PARTS = ("data", "forward", "backward", "optimizer", "rest")
"""The parts of a step: waiting for its data; the losses' forward passes; the backward passes, with the
reduction of gradients, and their clipping; the optimizer; and the rest, such as the schedule."""


class MetricSink(Protocol):
    """Receives metrics."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a metric."""

    def due(self) -> bool:
        """Whether throughput metrics are due."""


class Goodput:
    """Sums the seconds spent on steps and evaluations.

    Work repeated after a restart is not counted twice: the sum resumes from its value at the checkpoint's
    step.

    Args:
        started: When the run began, in seconds since 1970.
        total_at: Returns the sum recorded at or before a step; records of later steps are dropped.
        record: Records the sum at a step, outside this process.
        wall: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        started: float,
        total_at: Callable[[int], float],
        record: Callable[[int, float], object],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._started, self._total_at, self._record, self._wall = started, total_at, record, wall
        self._total = 0.0

    def begin(self, step: int) -> None:
        """Resumes from a step."""
        self._total = self._total_at(step)

    def add(self, step: int, seconds: float) -> float:
        """Adds seconds spent up to a step.

        Returns:
            The sum as a share of the run's time, including restarts.
        """
        self._total += seconds
        self._record(step, self._total)
        return min(self._total / max(self._wall() - self._started, 1e-9), 1.0)


class Throughput(TrainerCallback, LoopCallback):
    """Measures a worker's loop.

    Times are those of the training thread. On a GPU, asynchronous work is attributed to the part in which the
    host next waits for it.

    Args:
        trainer: The worker's trainer.
        sink: Receives the metrics.
        skew: Returns the slowest rank's forward time divided by the mean.
        tally: Tracks productive time.
        wall: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        trainer: HfLoop,
        sink: MetricSink,
        skew: Callable[[], float],
        tally: Goodput,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._trainer, self._sink, self._skew = trainer, sink, skew
        self._tally, self._wall = tally, wall
        self._hooks: list[RemovableHandle] = []
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._mark = self._since = self._forward_from = time.monotonic()
        self._step_forward = self._forward_since_call = self._productive = 0.0
        self._steps = self._rows = 0
        self._tokens: Tensor | None = None

    def pace(self) -> float:
        """This rank's forward seconds since the last call."""
        seconds, self._forward_since_call = self._forward_since_call, 0.0
        return seconds

    # ---- the parts of a step ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attaches hooks to the model wrapped for this training run."""
        model, wrapped = self._trainer.model, self._trainer.model_wrapped
        self._hooks = [
            wrapped.register_forward_pre_hook(self._begin_forward),
            wrapped.register_forward_hook(self._end_forward),
        ]
        if isinstance(model, WholeModel):
            self._hooks.append(first_of(model).register_forward_pre_hook(self._count))
        self._tally.begin(state.global_step)
        self._productive = 0.0
        self._mark = self._since = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the time of waiting for data."""
        self._lap("data")
        self._step_forward = 0.0

    def _begin_forward(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        self._forward_from = time.monotonic()

    def _end_forward(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if module.training:
            self._step_forward += time.monotonic() - self._forward_from

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the backward time, after gradients were clipped."""
        self._lap("backward")
        self._parts["backward"] -= self._step_forward
        self._parts["forward"] += self._step_forward
        self._forward_since_call += self._step_forward

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the optimizer time."""
        self._lap("optimizer")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends a step; reports its metrics when due."""
        self._lap("rest")
        self._steps += 1
        assert self._trainer.train_step is not None, "it has just made a step"
        self._rows += sum(map(len, self._trainer.train_step.used))
        if self._sink.due():
            self._report(state)

    def _lap(self, part: str) -> None:
        self._parts[part] += self._elapsed()

    def _elapsed(self) -> float:
        """Seconds since the last mark, counted as productive; resets the mark."""
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        self._productive += seconds
        return seconds

    def _count(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        """Counts tokens, with and without padding. Counts stay on the device and are read when due."""
        mask = inputs[0].get("attention_mask") if inputs and isinstance(inputs[0], Mapping) else None
        if mask is None or not torch.is_grad_enabled():  # evaluations, and a gradient cache's first pass
            return
        real = mask.sum()
        whole = real if skips_padding(module) else torch.full_like(real, mask.numel())
        counted = torch.stack([real, whole])
        self._tokens = counted if self._tokens is None else self._tokens + counted

    # ---- metrics ----

    def _report(self, state: TrainerState) -> None:
        now = time.monotonic()
        seconds, steps = max(now - self._since, 1e-9), self._steps
        in_steps = sum(self._parts.values())
        rank = str(self._trainer.worker.world.rank)
        for part, spent in self._parts.items():
            self._sink.set("st_train_step_seconds", spent / steps, part=part, rank=rank)
        self._sink.set("st_train_data_wait_share", self._parts["data"] / max(in_steps, 1e-9), rank=rank)
        if self._tokens is not None:
            real, whole = self._tokens.tolist()
            self._sink.set("st_train_tokens_per_second", real / seconds, rank=rank)
            self._sink.set("st_train_padding_share", 1 - real / max(whole, 1), rank=rank)
        if state.is_world_process_zero:
            self._sink.set("st_train_step", state.global_step)
            self._sink.set("st_train_samples_per_second", self._rows / seconds)
            self._sink.set("st_train_rank_skew", self._skew())
            self._report_goodput(state)
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._since, self._steps, self._rows, self._tokens = now, 0, 0, None

    def _report_goodput(self, state: TrainerState) -> None:
        ratio = self._tally.add(state.global_step, self._productive)
        self._productive = 0.0
        self._sink.set("st_train_effective_time_ratio", ratio)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reports the loss and the metrics of an evaluation."""
        self._elapsed()
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._sink.set("st_train_loss", float(logs["loss"]))
            self._sink.set("st_train_learning_rate", float(logs.get("learning_rate", 0.0)))
            return
        for name, value in logs.items():
            if name.startswith("eval_") and isinstance(value, (int, float)):
                self._sink.set("st_eval", float(value), metric=name)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts an evaluation as productive time, not as waiting for data."""
        self._elapsed()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports how long training stood still for a checkpoint."""
        seconds, self._mark = time.monotonic() - self._mark, time.monotonic()
        if state.is_world_process_zero:
            self._sink.set("st_checkpoint_pause_seconds", seconds)
            self._report_goodput(state)

    def on_checkpoint(self, state: TrainerState, settled: Settled) -> None:
        """Reports when the newest checkpoint was complete, and how long it took to write."""
        if state.is_world_process_zero and settled.checkpoint is not None:
            self._sink.set("st_checkpoint_seconds", settled.seconds)
            self._sink.set("st_checkpoint_unixtime_seconds", self._wall())
            self._sink.set("st_checkpoint_step", settled.step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports the remaining metrics and detaches from the model."""
        if self._steps:
            self._report(state)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
