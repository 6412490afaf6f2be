"""Progress of a corpus job: a bar on a terminal, plain lines in a job's log."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from tqdm import tqdm

from ray_st.runtime.encode.work_plan import WorkPiece
from ray_st.util.events import notes

_EVERY_S = 5.0


class JobProgress:
    """Shows rows and parts while the context is open.

    Args:
        pieces: All pieces of the job.
        done: Names of the pieces that are already complete.
        show: Whether to show anything.
    """

    def __init__(self, pieces: Sequence[WorkPiece], done: Collection[str], show: bool) -> None:
        self.total, self._parts, self._show = sum(piece.rows for piece in pieces), len(pieces), show
        self._before = self._rows = sum(piece.rows for piece in pieces if piece.name in done)
        self._done = len(done)
        self._bar: Any = None

    def __enter__(self) -> JobProgress:
        self._start = self._last = time.monotonic()
        if self._show and sys.stderr.isatty():
            self._bar = tqdm(total=self.total, initial=self._before, desc="encoding", unit="row")
        elif self._show:
            there = f"; {self._done} of them are there" if self._done else ""
            notes.info(f"{self.total:,} rows in {self._parts} parts{there}")
        return self

    def add(self, piece: WorkPiece) -> None:
        """Counts a completed piece."""
        self._rows += piece.rows
        self._done += 1
        if self._bar is not None:
            self._bar.update(piece.rows)
        elif self._show and (self._rows == self.total or time.monotonic() - self._last >= _EVERY_S):
            self._last = time.monotonic()
            rate = (self._rows - self._before) / max(self._last - self._start, 1e-9)
            notes.info(
                f"{self._rows:,}/{self.total:,} rows  {self._done}/{self._parts} parts  {rate:,.0f} rows/s"
            )

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()
