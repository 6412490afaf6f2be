"""Ctrl-C and SIGTERM: who handles them during a call, and restoring their handlers afterwards."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from ray_st.util.endings import Interrupted
from ray_st.util.events import event

STOPS = (signal.SIGINT, signal.SIGTERM)
"""The signals that end a program."""


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(number)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restores the handlers of :data:`STOPS` at the end, however the block ends and whoever changed them.

    Inside the block, an otherwise unhandled SIGTERM raises ``SystemExit``, so that open resources are closed.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set by Python code, which cannot restore it
                signal.signal(number, handler)


@contextmanager
def children_apart() -> Iterator[None]:
    """Puts processes that are started inside the block into a process group other than this process's.

    Signals to the whole group then reach only this process, and what it needs to save its work keeps running:
    `timeout` and shells send SIGTERM to groups. The leader of a group cannot leave it; a group that it leads
    is its own.
    """
    group = os.getpgrp()
    if group == os.getpid():
        yield
        return
    os.setpgrp()
    try:
        yield
    finally:
        with suppress(PermissionError):  # all other processes of the group have ended
            os.setpgid(0, group)


class StopSignals:
    """Asks a run to stop at the first signal; the next one has its previous effect.

    A Ctrl-C handler that the user set, or one that ignores it, stays: only Python's default is replaced.

    Args:
        ask: Requests the stop. Called in a thread, because a handler runs in the middle of other code.
        effect: What the stop does, for the log.
        numbers: The signals to handle.

    Attributes:
        by: The signal that requested the stop, or None.
    """

    def __init__(
        self,
        ask: Callable[[], object],
        effect: str = "the run stops after a checkpoint; once more stops it at once",
        numbers: Sequence[signal.Signals] = STOPS,
    ) -> None:
        self._ask, self._effect, self._numbers = ask, effect, numbers
        self.by: signal.Signals | None = None

    @property
    def by_ctrl_c(self) -> bool:
        """Whether the user pressed Ctrl-C."""
        return self.by is signal.SIGINT

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Handles the signals while the context is open.

        Raises:
            KeyboardInterrupt: Instead of ``Interrupted``, if Ctrl-C stopped the run.
        """
        if threading.current_thread() is not threading.main_thread():  # a trial: the search handles signals
            yield
            return
        with handlers_kept():
            before = {number: signal.getsignal(number) for number in self._numbers}
            if before.get(signal.SIGINT) is not signal.default_int_handler:
                before.pop(signal.SIGINT, None)

            def handle(number: int, frame: FrameType | None) -> None:
                for one, handler in before.items():
                    signal.signal(one, handler)
                self.by = signal.Signals(number)
                asking = (self.by.name,)
                threading.Thread(
                    target=self._report_and_ask, args=asking, name="ray_st-stop", daemon=True
                ).start()

            for number in before:
                signal.signal(number, handle)
            try:
                yield
            except Interrupted as stopped:
                if self.by_ctrl_c:
                    raise KeyboardInterrupt(str(stopped)) from stopped
                raise

    def _report_and_ask(self, name: str) -> None:
        event("stop.asked", f"{name}: {self._effect}", by=name)
        self._ask()
