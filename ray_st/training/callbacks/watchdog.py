"""Detects that a rank makes no progress, and records where it hangs."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.util.endings import Hang

STEP_LIMIT_S = 300.0
"""Seconds that a step, or the wait for its data, may always take.

Even fast steps may be delayed by minutes without a hang: a lost node's rows are encoded again, storage is
retried, a batch of a new shape is compiled.
"""

GROWTH = 10
"""How many times longer than the longest recent one a step, or the wait for its data, may be.

With longer texts a batch of the same number of rows costs several times as much, and so do steps of another
dataset of a mixture. A hang never ends, so that a limit too high only delays its report; one too low ends a
healthy run.
"""

RECENT = 200
"""Of how many steps and waits the longest counts: one that compiled, or was held up, is forgotten."""

PATIENCE = 12
"""Factor on the limit for a process's first step, evaluations and checkpoints."""


def learned_limit(recent_s: Sequence[float]) -> float:
    """Maximum seconds for a step, or for waiting for its data.

    Args:
        recent_s: Seconds of recent ones; :data:`STEP_LIMIT_S` if there are none.
    """
    return max(STEP_LIMIT_S, GROWTH * max(recent_s, default=0.0))


class Watchdog(TrainerCallback):
    """Reports a hang, once, when the loop has made no progress for too long.

    Args:
        rank: This process's rank.
        on_hang: Receives the hang; called in the watchdog's thread.
        limit_s: Maximum seconds for a step, or for waiting for its data; None learns it from recent ones.
        clock: The time in seconds.
    """

    def __init__(
        self,
        rank: int,
        on_hang: Callable[[Hang], Any],
        limit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank, self._on_hang, self._given_s, self._clock = rank, on_hang, limit_s, clock
        self._limit_s = learned_limit(()) if limit_s is None else limit_s
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._over = threading.Event()
        self._steps = 0
        self._seen: tuple[float, str, int] | None = None  # when, doing what, at which step

    def start(self) -> None:
        """Starts watching."""
        threading.Thread(target=self._watch, name="ray_st-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stops watching."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(self._limit_s / 10, 5.0)):
            hang = self.look(self._clock())
            if hang is not None:
                self._on_hang(hang)
                return

    def look(self, now: float) -> Hang | None:
        """The hang, if there is one.

        Args:
            now: The time by the watchdog's clock.
        """
        if self._seen is None:
            return None
        since, phase, step = self._seen
        usual = phase != "other" and self._steps > 0
        limit = self._limit_s if usual else self._limit_s * PATIENCE
        return Hang(self._rank, step, phase, now - since, limit) if now - since > limit else None

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Pauses the watchdog within this context, for waits of unlimited length."""
        seen, self._seen = self._seen, None
        try:
            yield
        finally:
            if seen is not None:
                self._beat(*seen[1:])

    def _beat(self, phase: str, step: int) -> None:
        now = self._clock()
        if self._seen is not None and self._seen[1] != "other":
            self._recent.append(now - self._seen[0])
            if self._given_s is None:
                self._limit_s = learned_limit(self._recent)
        self._seen = now, phase, step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Records progress at the start of training."""
        self._beat("other", state.global_step + 1)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Records that a step begins, or that one of its batches is done."""
        self._beat("step", state.global_step + 1)

    on_substep_end = on_step_begin

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Records that a step is done; next is loading data, unless other work is due."""
        self._steps += 1
        busy = control.should_evaluate or control.should_save
        self._beat("other" if busy else "data", state.global_step + 1)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Records that a batch of an evaluation, an evaluation, or an epoch is done."""
        self._beat("other", state.global_step)

    on_evaluate = on_epoch_end = on_prediction_step

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Records that training goes on after a checkpoint; after the last step other work follows."""
        ends = state.global_step >= state.max_steps
        self._beat("other" if ends else "data", state.global_step + 1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops watching at the end of training."""
        self._seen = None


@contextmanager
def at_rest(callbacks: Iterable[TrainerCallback]) -> Iterator[None]:
    """Pauses the watchdogs among a trainer's callbacks within this context.

    Args:
        callbacks: The trainer's callbacks.
    """
    with ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, Watchdog):
                stack.enter_context(callback.resting())
        yield


def stacks() -> str:
    """The stack of each thread of this process, oldest thread first."""
    frames = sys._current_frames()
    parts = []
    for thread in threading.enumerate():
        if thread.ident in frames:
            calls = "".join(traceback.format_stack(frames[thread.ident]))
            parts.append(f"thread {thread.name!r}\n{calls}")
    return "\n".join(parts)
