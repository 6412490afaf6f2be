"""Notices that a trial in its own process makes no progress, and ends the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray import tune
from transformers import Trainer

from ray_st.runtime.supervision.supervisor import write_stacks
from ray_st.training.callbacks.watchdog import Watchdog
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.endings import Hang
from ray_st.util.events import event

HANG = "hang"
"""Key of a report's text of a hang."""


@contextmanager
def watched_here(trainer: Trainer, store: CheckpointStore, limit_s: float | None) -> Iterator[None]:
    """Watches a trial's training in this process while the context is open.

    Args:
        trainer: The trial's trainer.
        store: The trial's folder, for the stacks of a hang.
        limit_s: As for :class:`ray_st.training.callbacks.watchdog.Watchdog`.
    """
    watchdog = Watchdog(0, lambda hang: _give_up(hang, store), limit_s)
    trainer.add_callback(watchdog)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def _give_up(hang: Hang, store: CheckpointStore) -> None:
    """Logs where the trial is stuck, then ends its process: a single thread cannot be ended.

    Ray Tune restarts the trial like any whose process is lost; the report tells the driver why.
    """
    folder = write_stacks(store, 0, hang)
    event("hang.seen", f"{hang}; its stacks are in {folder}", folder=folder)
    tune.report({HANG: f"{hang}; its stacks are in {folder}"})
    os._exit(1)
