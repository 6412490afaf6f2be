"""A text stream that passes whole lines to a function."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable


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
