"""Lines at the bottom of a terminal that change while others scroll by above them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TextIO

_UP_AND_CLEAR = "\x1b[{count}F\x1b[J"


class LiveLines:
    """A block of lines that is written anew in its place.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Writes the block; cut to the terminal's width, as a line that wraps could not be taken back."""
        width = shutil.get_terminal_size().columns - 1
        self._replace("", [line[:width] for line in lines])

    def above(self, line: str) -> None:
        """Writes a line that stays, above the block."""
        self._replace(f"{line}\n", self._shown)

    def _replace(self, text: str, block: list[str]) -> None:
        back = _UP_AND_CLEAR.format(count=len(self._shown)) if self._shown else ""
        self._stream.write(back + text + "".join(f"{line}\n" for line in block))
        self._stream.flush()
        self._shown = block
