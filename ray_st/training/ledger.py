"""Which rows each step used, written down for audits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

LEDGER = "ledger.jsonl"


class Ledger:
    """A file with one line for each optimizer step: its number and the rows of its global batches.

    Rows are numbered over all datasets of a run, one dataset after the other. A run that goes on from a checkpoint
    first takes back the lines of steps that it will do again, so that the file always tells of one unbroken run.

    Args:
        path: The file.
        check: Called before anything is written; raises where that is forbidden.
    """

    def __init__(self, path: str | Path, check: Callable[[], object] = bool) -> None:
        self.path, self._check = Path(path), check
        self._unwritten = b""

    def rewind(self, step: int) -> None:
        """Takes back the lines of steps after ``step``."""
        self._check()
        kept = [line for line in read_ledger(self.path) if line["step"] <= step] if self.path.exists() else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        part.replace(self.path)

    def write(self, step: int, batches: Sequence[Any]) -> None:
        """Adds a line. What a full disk, or storage that is away, does not take is written with the next one.

        Args:
            step: The step's number, from 1.
            batches: Row numbers of each of its global batches.
        """
        line = {"step": step, "rows": [[int(row) for row in batch] for batch in batches]}
        self._unwritten += (json.dumps(line) + "\n").encode()
        with suppress(OSError):
            self._check()
            self._append()

    def _append(self) -> None:
        with self.path.open("ab", buffering=0) as stream:
            size = stream.tell()
            written = stream.write(self._unwritten)
            if written == len(self._unwritten):
                self._unwritten = b""
            else:  # the disk is full: no half lines
                stream.truncate(size)


def read_ledger(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger; a line that a crash cut short is left out."""
    for line in Path(path).read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
