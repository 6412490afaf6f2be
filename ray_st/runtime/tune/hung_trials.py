"""Noticing that a trial in a process of its own makes no progress, and ending the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from ray_st.runtime.supervision.supervisor import write_stacks
from ray_st.training.callbacks.watchdog import Watchdog
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.events import event
from ray_st.util.hang import Hang

HANG = "hang"
"""Key of a report's text of a hang."""


@contextmanager
def watched_here(trainer: Any, store: CheckpointStore, limit_s: float) -> Iterator[None]:
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
    """Says where the trial is, then ends its process: a thread that is stuck cannot be ended by itself.

    Ray Tune starts the trial again as it does one whose process is lost; the report tells the driver why it was.
    """
    folder = write_stacks(store, 0, hang)
    event("hang.seen", f"{hang}; its stacks are in {folder}", folder=folder)
    tune.report({HANG: f"{hang}; its stacks are in {folder}"})
    os._exit(1)
