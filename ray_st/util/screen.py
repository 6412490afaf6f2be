"""Lines and one progress bar on this process's console: a terminal, a notebook, or a job's log."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ray_st.util.events import send_to

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[io.TextIOBase]
else:
    _StreamHandler = logging.StreamHandler  # not generic before Python 3.11


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
    in_notebook = "ipykernel.zmqshell" in sys.modules  # which the kernel of a notebook has loaded
    return sys.stderr.isatty() or in_notebook


class Screen:
    """Shows lines on standard output, above the bar if there is one. Safe to use from several threads."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._lock = threading.RLock()  # a bar that ends is closed while it moves

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
            self.close()

    def close(self) -> None:
        """Closes the bar, if there is one: a failed run leaves it open."""
        with self._lock:
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


class LineStream(io.TextIOBase):
    r"""Collects written text and passes on each line without its line end.

    If a line is overwritten repeatedly (``\r``, as by progress bars), only its last version is passed on.
    Safe to write to from several threads.

    Args:
        take: Called with each line.
    """

    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__()
        self._take = take
        self._rest = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, text: str) -> int:
        """Adds text; passes on the lines that it completes."""
        with self._lock:
            *lines, self._rest = (self._rest + text.replace("\r\n", "\n")).split("\n")
            for line in lines:
                self._take(_last_version(line))
        return len(text)

    def close(self) -> None:
        """Passes on an incomplete last line."""
        with self._lock:
            rest, self._rest = self._rest, ""
            if rest:
                self._take(_last_version(rest))
        super().close()


def _last_version(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


class _AboveBars(io.TextIOBase):
    """A stream whose lines appear above tqdm's progress bars."""

    def write(self, text: str) -> int:
        tqdm.write(text, end="")
        return len(text)


class LoggingHandler(_StreamHandler):
    """Writes records to standard output, above progress bars.

    Args:
        level: Minimum level of the records to write.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(_AboveBars())
        self.setLevel(level)
