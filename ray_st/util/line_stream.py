"""A text stream that gives whole lines to a function."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable


class LineStream(io.TextIOBase):
    r"""Collects what is written and passes on each line without its end.

    Of a line that is written over again and again (``\r``, as progress bars do) only the last version is
    passed on. Safe to write to from several threads.

    Args:
        take: Called with each line.
    """

    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__()
        self._take = take
        self._rest = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Takes text; passes on the lines that it completes."""
        with self._lock:
            *lines, self._rest = (self._rest + text.replace("\r\n", "\n")).split("\n")
            for line in lines:
                self._take(_last_version(line))
        return len(text)

    def close(self) -> None:
        """Passes on the line that was begun."""
        with self._lock:
            rest, self._rest = self._rest, ""
            if rest:
                self._take(_last_version(rest))
        super().close()


def _last_version(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
