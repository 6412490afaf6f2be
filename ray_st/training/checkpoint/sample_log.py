"""Records which rows each step used, for audits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_st.util.atomic import write_whole
from ray_st.util.events import notes

LEDGER = "ledger.jsonl"


class SampleLogError(ValueError):
    """A ledger is damaged."""


class SampleLog:
    """A file with one line for each optimizer step: its number and the rows of its global batches.

    Rows are numbered over all datasets of a run, one dataset after the other. A run that resumes from a
    checkpoint first removes the lines of steps that it will repeat, so that the file always describes one
    uninterrupted run.

    Args:
        path: The file.
        check: Called before every write; raises if writing is not allowed.
    """

    def __init__(self, path: str | Path, check: Callable[[], object] = bool) -> None:
        self.path, self._check = Path(path), check
        self._unwritten = b""

    def rewind(self, step: int) -> None:
        """Removes the lines of steps after ``step``.

        A damaged file is moved aside, and its readable lines are kept: it must not prevent a run from
        resuming.
        """
        self._check()
        lines, faults = _parsed(self.path) if self.path.exists() else ([], [])
        kept = [line for line in lines if line["step"] <= step]
        if faults:
            aside = self.path.with_name(f"{self.path.stem}-damaged-after-{step}.jsonl")
            aside.write_bytes(self.path.read_bytes())
            notes.warning(f"warning: {faults[0]}; the whole file is kept as {aside}")
        missing = step - len(kept)
        if missing:
            notes.warning(f"warning: {self.path} lacks the lines of {missing} of the {step} steps so far")
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, batches: Sequence[Any]) -> None:
        """Adds a line. If the disk is full or storage is unavailable, the line is written with the next one.

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
            else:  # the disk is full: leave no partial lines
                stream.truncate(size)


def read_ledger(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger; a line truncated by a crash is left out.

    Args:
        path: The file.

    Raises:
        SampleLogError: If a complete line is not a ledger line; names it.
    """
    lines, faults = _parsed(Path(path))
    if faults:
        raise SampleLogError(f"{faults[0]}. Repair or delete the line to read the others.")
    yield from lines


def _parsed(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """A ledger's valid lines, and what is wrong with the others."""
    lines, faults = [], []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        line = _line(text)
        if line is None:
            faults.append(f"{path}, line {number} is no line of a ledger: {text[:60]!r}")
        else:
            lines.append(line)
    return lines, faults


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    match line:
        case {"step": int(), "rows": list(batches)} if all(isinstance(batch, list) for batch in batches):
            return dict(line)
    return None
