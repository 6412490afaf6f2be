"""A log handler that does not break progress bars."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[io.TextIOBase]
else:
    _StreamHandler = logging.StreamHandler  # not generic before Python 3.11


class _AboveBars(io.TextIOBase):
    """A stream whose lines appear above tqdm's progress bars."""

    def write(self, text: str) -> int:
        from tqdm import tqdm

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
