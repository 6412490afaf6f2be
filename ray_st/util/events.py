"""What a run says to people and to log collectors: plain lines, or JSON lines whose codes do not change."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

LOG_FORMAT = "RAY_ST_LOG_FORMAT"
"""Environment variable: ``text`` (default) or ``json``."""

FORMATS = ("text", "json")

EVENTS = {
    "note": "a line for people that has no code of its own",
    "run.started": "the driver handed the run to the cluster",
    "run.finished": "the run reached its last step",
    "run.interrupted": "the run was told to stop, and has",
    "run.failed": "an error ended the run",
    "run.refused": "the run cannot work as described; nothing was started",
    "workers.started": "a worker group began or went on: first step, size, checkpoint",
    "workers.lost": "workers failed and are replaced: cause, ranks",
    "stop.asked": "the run, or one of its workers, was asked to stop: by whom",
    "stop.saved": "all ranks have stopped after a checkpoint: step, reason",
    "train.figures": "loss and other figures of training",
    "eval.figures": "figures of an evaluation",
    "checkpoint.written": "a checkpoint is complete: step, seconds",
    "checkpoint.passed_over": "a checkpoint is incomplete or damaged: file",
    "hang.seen": "a rank has made no progress for too long: rank, step, seconds",
    "hang.stacks": "where the ranks are was written down: folder, ranks that did not answer",
    "lease.taken": "the run's folder was left by a driver that is gone, and is ours now",
    "lease.lost": "another driver took the run's folder; this one stops",
}
"""Code and meaning of every event. Codes stay; new ones may be added."""

WARNINGS = ("workers.lost", "checkpoint.passed_over", "hang.seen", "hang.stacks", "stop.asked", "lease.taken")
ERRORS = ("run.failed", "run.refused", "lease.lost")


class _Log:
    """Where this process's events go, and what each of them says besides."""

    def __init__(self) -> None:
        self.write: Callable[[str], None] = _to_stdout
        self.context: dict[str, Any] = {}


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")  # Ray replaces print in workers by one that writes twice
    sys.stdout.flush()


def _to_stderr(line: str) -> None:
    with suppress(OSError):  # nobody can be told
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


_log = _Log()


def tell(code: str, message: str, **facts: Any) -> None:
    """Tells of an event: its message as a line, or all of it as one JSON object.

    A line that cannot be written, as the log's disk is full or its reader gone, goes to standard error if that can be, and ends no
    run.

    Args:
        code: One of :data:`EVENTS`.
        message: What people read.
        facts: What programs read, in JSON only; what JSON has no value for becomes text.
    """
    line = as_json(code, message, **facts) if speaks_json() else message
    try:
        _log.write(line)
    except OSError:
        _to_stderr(line)


def write_line(line: str) -> None:
    """Writes one line to the user's log, as an event without a code of its own; see :func:`tell`."""
    tell("note", line)


def as_json(code: str, message: str, **facts: Any) -> str:
    """An event as one line of JSON: time (UTC), event, level, message, this process's context, facts.

    Raises:
        ValueError: If the code is unknown.
    """
    if code not in EVENTS:
        raise ValueError(f"{code!r} is no event; known: {', '.join(EVENTS)}.")
    level = "error" if code in ERRORS else "warning" if code in WARNINGS else "info"
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    event = {"time": now, "event": code, "level": level, "message": message, **_log.context, **facts}
    # JSON has no NaN and no infinity: they become text.
    return json.dumps(json.loads(json.dumps(event, default=str), parse_constant=str), ensure_ascii=False)


def speaks_json() -> bool:
    """Whether events are written as JSON."""
    return os.environ.get(LOG_FORMAT, "text") == "json"


def set_context(**context: Any) -> None:
    """Sets what each event of this process says besides, such as its run and rank."""
    _log.context = context


def send_to(write: Callable[[str], None] | None) -> None:
    """Sends this process's lines elsewhere; None for standard output.

    Args:
        write: Takes one line without its end.
    """
    _log.write = write or _to_stdout
