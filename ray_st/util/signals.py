"""Ctrl-C and SIGTERM: who has them while a call lasts, and that their handlers are back afterwards."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
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
    """Puts the handlers of :data:`STOPS` back at the end, whoever set others meanwhile, whatever way it ends.

    While it lasts, a SIGTERM that nobody handles raises ``SystemExit``, so that what is open is closed.
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
            if handler is not None:  # None: set by no Python code, which cannot set it again
                signal.signal(number, handler)


@contextmanager
def children_apart() -> Iterator[None]:
    """Lets processes that are started meanwhile have a process group that is not this process's.

    What is sent to the whole group then reaches this process alone, and what it needs to save its work stays:
    `timeout` and shells send SIGTERM to groups. The leader of a group cannot leave it; groups that it leads
    are its own.
    """
    group = os.getpgrp()
    if group == os.getpid():
        yield
        return
    os.setpgrp()
    try:
        yield
    finally:
        with suppress(PermissionError):  # all others of the group have ended
            os.setpgid(0, group)


class StopSignals:
    """Asks a run to stop at the first signal; the next one does what it did before.

    A handler of Ctrl-C that the user set, or one that ignores it, stays: only Python's own is replaced.

    Args:
        ask: Asks the run to stop. Called in a thread, as a handler runs in the middle of other code.

    Attributes:
        by: The signal that asked, or None.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self.by: signal.Signals | None = None

    @property
    def by_ctrl_c(self) -> bool:
        """Whether the user pressed Ctrl-C."""
        return self.by is signal.SIGINT

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Has the signals while the context is open.

        Raises:
            KeyboardInterrupt: In place of ``Interrupted``, where it was Ctrl-C that stopped the run.
        """
        if threading.current_thread() is not threading.main_thread():  # a trial: the search has the signals
            yield
            return
        with handlers_kept():
            before = {number: signal.getsignal(number) for number in STOPS}
            if before[signal.SIGINT] is not signal.default_int_handler:
                del before[signal.SIGINT]

            def handle(number: int, frame: FrameType | None) -> None:
                for one, handler in before.items():
                    signal.signal(one, handler)
                self.by = signal.Signals(number)
                asking = (self.by.name,)
                threading.Thread(
                    target=self._say_and_ask, args=asking, name="ray_st-stop", daemon=True
                ).start()

            for number in before:
                signal.signal(number, handle)
            try:
                yield
            except Interrupted as stopped:
                if self.by_ctrl_c:
                    raise KeyboardInterrupt(str(stopped)) from stopped
                raise

    def _say_and_ask(self, name: str) -> None:
        event("stop.asked", f"{name}: the run stops after a checkpoint; once more stops it at once", by=name)
        self._ask()
