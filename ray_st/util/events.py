"""A run's messages as ``logging`` records: plain lines for people, or JSON lines with stable codes.

The logger of an event is named after its code, for example ``ray_st.events.workers.lost``, so that a level or
a handler of ``logging`` can route or silence one event, a group (``ray_st.events.train``) or all events
(``ray_st.events``). Loggers of modules (``logging.getLogger(__name__)``) are for details that users see only
on request: their level also decides whether models show progress bars, so events cannot share it.

Nothing is configured at import. At the first event, :class:`ConsoleHandler` is attached to ``ray_st.events``
unless ``ray_st`` has handlers, and the level is set to INFO unless one of the two has a level. Handlers on
``ray_st`` replace the console; those on ``ray_st.events``, or on an event's logger, are used in addition.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter  # not generic before Python 3.11

LOG_FORMAT = "RAY_ST_LOG_FORMAT"
"""Environment variable: ``text`` (default) or ``json``."""

FORMATS = ("text", "json")

EVENTS = {
    "note": "a message without a code of its own",
    "run.started": "the driver submitted the run to the cluster",
    "run.finished": "the run reached its last step",
    "run.interrupted": "the run was asked to stop, and has",
    "run.failed": "an error ended the run",
    "run.refused": "the run cannot work as described; nothing was started",
    "workers.started": "a worker group started or resumed: first step, size, checkpoint",
    "workers.lost": "workers failed and are replaced: cause, ranks",
    "workers.awaited": "there is no room for the least number of workers: the run waits",
    "workers.resized": "the run goes on with another number of workers: how many, and how many before",
    "stop.asked": "the run, or one of its workers, was asked to stop: by whom",
    "stop.saved": "all ranks have stopped after a checkpoint: step, reason",
    "train.figures": "loss and other training metrics",
    "eval.figures": "metrics of an evaluation",
    "checkpoint.written": "a checkpoint is complete: step, seconds",
    "checkpoint.passed_over": "a checkpoint is incomplete or damaged: file",
    "hang.seen": "a rank has made no progress for too long: rank, step, seconds, limit",
    "hang.stacks": "the stacks of the ranks were written: folder, ranks that did not respond",
    "lease.taken": "the run's folder was left by a driver that is gone, and was taken over",
    "lease.lost": "another driver took over the run's folder; this one stops",
}
"""Code and meaning of every event. Codes are stable; new ones may be added."""

WARNINGS = (
    "workers.lost",
    "workers.awaited",
    "checkpoint.passed_over",
    "hang.seen",
    "hang.stacks",
    "stop.asked",
    "lease.taken",
)
ERRORS = ("run.failed", "run.refused", "lease.lost")


def level_of(code: str) -> int:
    """The ``logging`` level of an event."""
    return logging.ERROR if code in ERRORS else logging.WARNING if code in WARNINGS else logging.INFO


def event(code: str, message: str, **facts: object) -> None:
    """Logs an event.

    Args:
        code: One of :data:`EVENTS`.
        message: Message for people.
        facts: Values for programs, in JSON only; those that JSON cannot represent become text.

    Raises:
        ValueError: If the code is unknown.
    """
    if code not in EVENTS:
        raise ValueError(f"{code!r} is no event; known: {', '.join(EVENTS)}.")
    _set_up()
    logger = _EVENTS.getChild(code)
    logger.log(level_of(code), message, extra={"event": code, "facts": facts}, stacklevel=2)


def relayed(record: logging.LogRecord) -> None:
    """Logs a record from another process, subject to its logger's level; see :func:`send_records_to`."""
    _set_up()
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class _Notes(_LoggerAdapter):
    """The logger for messages to people without a code of their own."""

    def isEnabledFor(self, level: int) -> bool:
        _set_up()
        return super().isEnabledFor(level)


# ---- formatters ----


class PeopleFormatter(logging.Formatter):
    """The message only."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), event, level, message, the context of the process, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        extra = record.__dict__
        now = datetime.fromtimestamp(record.created, timezone.utc)
        entry = {
            "time": now.isoformat(timespec="milliseconds"),
            "event": extra.get("event", "note"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **extra.get("context", _context),
            **extra.get("facts", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # JSON has no NaN or infinity: they become text.
        return json.dumps(json.loads(json.dumps(entry, default=str), parse_constant=str), ensure_ascii=False)


# ---- the console ----


class ConsoleHandler(logging.Handler):
    """Shows records on the user's console: on standard output, or in a worker through the driver.

    A record that cannot be shown, because the log's disk is full or its reader is gone, is written to
    standard error if possible. This never ends a run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.takes_all, self.level_is_default = False, False
        self._take = self._as_line(_to_stdout)

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, in the format of :data:`LOG_FORMAT` unless a formatter is set."""
        formatter = self.formatter or (JsonFormatter() if speaks_json() else PeopleFormatter())
        return formatter.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record."""
        try:
            self._take(record)
        except OSError:
            _to_stderr(self.format(record))

    def write_to(self, write: Callable[[str], object]) -> None:
        """Passes all further lines to a function."""
        self.takes_all, self._take = False, self._as_line(write)

    def send_to(self, send: Callable[[logging.LogRecord], object]) -> None:
        """Passes all further records to a function, even if the process has handlers of its own."""
        self.takes_all, self._take = True, lambda record: send(_sendable(record))

    def _as_line(self, write: Callable[[str], object]) -> Callable[[logging.LogRecord], object]:
        return lambda record: write(self.format(record))


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")  # not print: Ray replaces it in workers by a function that writes twice
    sys.stdout.flush()


def _to_stderr(line: str) -> None:
    with suppress(OSError):  # there is nowhere else to write
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _sendable(record: logging.LogRecord) -> logging.LogRecord:
    """A copy with plain values, which any process can unpickle, and the context of this process."""
    sent = copy.copy(record)
    sent.msg, sent.args, sent.exc_info = record.getMessage(), None, None
    facts = json.loads(json.dumps(record.__dict__.get("facts", {}), default=str))
    sent.__dict__.update(facts=facts, context=dict(_context))
    return sent


# ---- this process's set-up ----

_PACKAGE = logging.getLogger("ray_st")
_EVENTS = _PACKAGE.getChild("events")
_console = ConsoleHandler()
_context: dict[str, Any] = {}

notes = _Notes(_EVENTS.getChild("note"), {})
"""Logs messages to people without a code of their own, with the methods of a ``logging.Logger``."""


def _set_up() -> None:
    """Sets a handler and a level unless the user has set them.

    Cheap; runs at each event, because the user's settings may change at any time.
    """
    wanted = _console.takes_all or not _PACKAGE.handlers
    if wanted != (_console in _EVENTS.handlers):
        (_EVENTS.addHandler if wanted else _EVENTS.removeHandler)(_console)
        # The root logger's handlers would show each line twice.
        _EVENTS.propagate = not wanted
    if not (_EVENTS.level or _PACKAGE.level):
        _EVENTS.setLevel(logging.INFO)
        _console.level_is_default = True
    elif _console.level_is_default and _PACKAGE.level:  # set by the user in the meantime
        _EVENTS.setLevel(logging.NOTSET)
        _console.level_is_default = False


def speaks_json() -> bool:
    """Whether events are written as JSON."""
    return os.environ.get(LOG_FORMAT, "text") == "json"


def set_context(**context: Any) -> None:
    """Sets the context that is added to every event of this process, such as its run and rank."""
    _context.clear()
    _context.update(context)


def send_to(write: Callable[[str], object] | None) -> None:
    """Redirects this process's lines; None restores standard output.

    Args:
        write: Called with each line, without its line end.
    """
    _console.write_to(write or _to_stdout)


def send_records_to(send: Callable[[logging.LogRecord], object]) -> None:
    """Sends this process's events to another process, which passes them to :func:`relayed`.

    Args:
        send: Called with each record, which can be pickled.
    """
    _console.send_to(send)
