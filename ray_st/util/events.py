"""A run's messages as ``logging`` records: plain lines for people, or JSON lines with stable codes.

The logger of an event is named after its code, such as ``ray_st.events.workers.lost``, so that a level or a
handler of ``logging`` routes or silences one event, a group (``ray_st.events.train``) or all
(``ray_st.events``). Loggers of modules (``logging.getLogger(__name__)``) are for what users see only if they
ask for it: the level of those also decides whether models show progress bars, so events cannot share it.

Nothing is configured at import. From the first event on :class:`ConsoleHandler` is attached to
``ray_st.events``, as long as ``ray_st`` has no handlers, and the level is INFO, unless one of the two has a
level. Handlers on ``ray_st`` replace the console; those on ``ray_st.events``, or on an event's logger, come
on top.
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
    _LoggerAdapter = logging.LoggerAdapter  # takes no type parameters before Python 3.11

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
    "stop.asked": "the run, or one of its workers, was asked to stop: by whom",
    "stop.saved": "all ranks have stopped after a checkpoint: step, reason",
    "train.figures": "loss and other training metrics",
    "eval.figures": "metrics of an evaluation",
    "checkpoint.written": "a checkpoint is complete: step, seconds",
    "checkpoint.passed_over": "a checkpoint is incomplete or damaged: file",
    "hang.seen": "a rank has made no progress for too long: rank, step, seconds",
    "hang.stacks": "the stacks of the ranks were written: folder, ranks that did not respond",
    "lease.taken": "the run's folder was left by a driver that is gone, and was taken over",
    "lease.lost": "another driver took over the run's folder; this one stops",
}
"""Code and meaning of every event. Codes stay; new ones may be added."""

WARNINGS = ("workers.lost", "checkpoint.passed_over", "hang.seen", "hang.stacks", "stop.asked", "lease.taken")
ERRORS = ("run.failed", "run.refused", "lease.lost")


def level_of(code: str) -> int:
    """The ``logging`` level of an event."""
    return logging.ERROR if code in ERRORS else logging.WARNING if code in WARNINGS else logging.INFO


def event(code: str, message: str, **facts: object) -> None:
    """Logs an event.

    Args:
        code: One of :data:`EVENTS`.
        message: What people read.
        facts: What programs read, in JSON only; what JSON has no value for becomes text.

    Raises:
        ValueError: If the code is unknown.
    """
    if code not in EVENTS:
        raise ValueError(f"{code!r} is no event; known: {', '.join(EVENTS)}.")
    _set_up()
    logger = _EVENTS.getChild(code)
    logger.log(level_of(code), message, extra={"event": code, "facts": facts}, stacklevel=2)


def relayed(record: logging.LogRecord) -> None:
    """Logs a record from another process if its logger passes it here; see :func:`send_records_to`."""
    _set_up()
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class _Notes(_LoggerAdapter):
    """The logger of lines for people that have no code of their own."""

    def isEnabledFor(self, level: int) -> bool:
        _set_up()
        return super().isEnabledFor(level)


# ---- formatters ----


class PeopleFormatter(logging.Formatter):
    """The message alone."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), event, level, message, the context of the process, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        extra = record.__dict__
        now = datetime.fromtimestamp(record.created, timezone.utc)
        said = {
            "time": now.isoformat(timespec="milliseconds"),
            "event": extra.get("event", "note"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **extra.get("context", _context),
            **extra.get("facts", {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        # JSON has no NaN and no infinity: they become text.
        return json.dumps(json.loads(json.dumps(said, default=str), parse_constant=str), ensure_ascii=False)


# ---- the console ----


class ConsoleHandler(logging.Handler):
    """Shows records on the user's console: on standard output, or from a worker through the driver.

    A record that cannot be shown, because the disk of the log is full or its reader is gone, goes to standard
    error if that can be written to. It never ends a run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.takes_all, self.level_is_default = False, False
        self._take = self._as_line(_to_stdout)

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, in the format of :data:`LOG_FORMAT` unless a formatter was set."""
        formatter = self.formatter or (JsonFormatter() if speaks_json() else PeopleFormatter())
        return formatter.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record."""
        try:
            self._take(record)
        except OSError:
            _to_stderr(self.format(record))

    def write_to(self, write: Callable[[str], object]) -> None:
        """Gives a function the lines from now on."""
        self.takes_all, self._take = False, self._as_line(write)

    def send_to(self, send: Callable[[logging.LogRecord], object]) -> None:
        """Sends all records to a function from now on, even if the process has handlers of its own."""
        self.takes_all, self._take = True, lambda record: send(_sendable(record))

    def _as_line(self, write: Callable[[str], object]) -> Callable[[logging.LogRecord], object]:
        return lambda record: write(self.format(record))


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")  # Ray replaces print in workers by one that writes twice
    sys.stdout.flush()


def _to_stderr(line: str) -> None:
    with suppress(OSError):  # there is nowhere else to write
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _sendable(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of plain values, which any process can unpickle, with the context of this one."""
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
"""Logs lines for people that have no code of their own, with the methods of a ``logging.Logger``."""


def _set_up() -> None:
    """Sets a handler and a level where the user has not.

    Cheap; runs at each event, since they may change at any time.
    """
    wanted = _console.takes_all or not _PACKAGE.handlers
    if wanted != (_console in _EVENTS.handlers):
        (_EVENTS.addHandler if wanted else _EVENTS.removeHandler)(_console)
        # The root logger's handlers would show a line a second time.
        _EVENTS.propagate = not wanted
    if not (_EVENTS.level or _PACKAGE.level):
        _EVENTS.setLevel(logging.INFO)
        _console.level_is_default = True
    elif _console.level_is_default and _PACKAGE.level:  # set since
        _EVENTS.setLevel(logging.NOTSET)
        _console.level_is_default = False


def speaks_json() -> bool:
    """Whether events are written as JSON."""
    return os.environ.get(LOG_FORMAT, "text") == "json"


def set_context(**context: Any) -> None:
    """Sets what each event of this process says besides, such as its run and rank."""
    _context.clear()
    _context.update(context)


def send_to(write: Callable[[str], object] | None) -> None:
    """Sends this process's lines elsewhere; None for standard output.

    Args:
        write: Takes one line without its end.
    """
    _console.write_to(write or _to_stdout)


def send_records_to(send: Callable[[logging.LogRecord], object]) -> None:
    """Sends this process's events to another one, which passes them to :func:`relayed`.

    Args:
        send: Takes one record, which can be pickled.
    """
    _console.send_to(send)
