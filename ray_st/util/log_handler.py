"""Log records that leave progress bars whole."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[io.TextIOBase]
else:
    _StreamHandler = logging.StreamHandler  # takes no type parameters before Python 3.11


class _AboveBars(io.TextIOBase):
    """A stream whose lines appear above the bars of tqdm."""

    def write(self, text: str) -> int:
        from tqdm import tqdm

        tqdm.write(text, end="")
        return len(text)


class LoggingHandler(_StreamHandler):
    """Writes records to the standard output, above progress bars instead of into them.

    Args:
        level: Least level of the records that are written.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(_AboveBars())
        self.setLevel(level)
