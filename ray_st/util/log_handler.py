"""Log records that leave progress bars whole."""

from __future__ import annotations

import io
import logging


class _AboveBars(io.TextIOBase):
    """A stream whose lines appear above the bars of tqdm."""

    def write(self, text: str) -> int:
        from tqdm import tqdm

        tqdm.write(text, end="")
        return len(text)


class LoggingHandler(logging.StreamHandler[io.TextIOBase]):
    """Writes records to the standard output, above progress bars instead of into them.

    Args:
        level: Least level of the records that are written.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(_AboveBars())
        self.setLevel(level)
