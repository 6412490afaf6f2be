"""Lines and one progress bar on this process's console: a terminal, a notebook, or a job's log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from ray_st.util.events import send_to


@dataclass(frozen=True)
class BarMove:
    """The position of a progress bar.

    Args:
        step: Number of completed steps.
        total: Total number of steps.
        text: Text in front of the bar.
        closed: Whether the bar has ended.
    """

    step: int
    total: int
    text: str = ""
    closed: bool = False


def has_bar() -> bool:
    """Whether this process's console can show a bar: a terminal, or a notebook."""
    return sys.stderr.isatty() or in_notebook()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel.zmqshell" in sys.modules


class Screen:
    """Shows lines on standard output, above the bar if there is one. Safe to use from several threads."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._lock = threading.Lock()

    def show(self, item: str | BarMove) -> None:
        """Writes a line or moves the bar."""
        with self._lock:
            if isinstance(item, BarMove):
                self._move(item)
            elif self._bar is None:
                sys.stdout.write(item + "\n")
                sys.stdout.flush()
            else:
                tqdm.write(item, file=sys.stdout)

    def _move(self, to: BarMove) -> None:
        if self._bar is None:
            self._bar = tqdm(total=to.total, unit="step")
        self._bar.set_description_str(to.text, refresh=False)
        self._bar.update(to.step - self._bar.n)
        if to.closed:
            self._close_bar()

    def close(self) -> None:
        """Closes the bar, if there is one: a failed run leaves it open."""
        with self._lock:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def shown() -> Iterator[Screen]:
    """This process's console while the context is open; its own events do not break the bar either."""
    screen = Screen()
    send_to(screen.show)
    try:
        yield screen
    finally:
        screen.close()
        send_to(None)


class SentBar:
    """A progress bar that a screen draws, in this or another process.

    Args:
        send: Called with each move of the bar.
        total: Total number of steps.
        every_s: Minimum seconds between two moves; the last move and the end are always sent.
    """

    def __init__(self, send: Callable[[BarMove], object], total: int, every_s: float = 0.0) -> None:
        self._send, self._total, self._every_s = send, total, every_s
        self._step, self._text, self._last = 0, "", 0.0

    def update(self, n: int = 1) -> None:
        """Advances by n steps."""
        self._step += n
        if self._step >= self._total or time.monotonic() - self._last >= self._every_s:
            self._move()

    def set_description(self, desc: str) -> None:
        """Sets the text in front of the bar, shown with its next move."""
        self._text = desc

    def close(self) -> None:
        """Closes the bar."""
        self._move(closed=True)

    def _move(self, closed: bool = False) -> None:
        self._last = time.monotonic()
        self._send(BarMove(self._step, self._total, self._text, closed))
