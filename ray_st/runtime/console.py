"""What workers say, on the driver's console: lines, and a bar where there is a terminal or a notebook.

Workers send what they say to the run's tower, and the driver fetches it from there. Ray's own way to the driver would put
the worker's name before each line, leave out lines that look alike, and bring Ray's own messages along.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from ray_st.util.events import LOG_FORMAT, send_to, set_context
from ray_st.util.lines import LineStream
from ray_st.util.screen import BarMove, Screen
from ray_st.world import World

WORKER_OUTPUT = "RAY_ST_WORKER_OUTPUT"
"""Environment variable of the driver: ``first`` (default) or ``all``, the workers whose ``print`` it shows."""

_BAR_EVERY_S = 0.2


@dataclass(frozen=True)
class Channel:
    """A worker's way to the driver's console.

    Args:
        tower: The actor that passes on what is said.
        run: Name of the run.
        log_format: Of events, see :data:`ray_st.util.events.LOG_FORMAT`.
        all_ranks: Whether to show what every rank prints, not only the first.
    """

    tower: Any
    run: str
    log_format: str
    all_ranks: bool

    def say(self, item: str | BarMove) -> None:
        """Sends an item to the driver's console."""
        ray.get(self.tower.tell.remote(item))

    def open_bar(self, total: int) -> _RemoteBar:
        """Opens a bar of so many steps on the driver's console."""
        return _RemoteBar(self.tower, total)


class _RemoteBar:
    """A bar that the driver draws; it hears of it a few times a second."""

    def __init__(self, tower: Any, total: int) -> None:
        self._tower, self._total = tower, total
        self._step, self._text, self._last = 0, "", 0.0

    def update(self, n: int = 1) -> None:
        self._step += n
        if self._step >= self._total or time.monotonic() - self._last >= _BAR_EVERY_S:
            self._send()

    def set_description(self, desc: str) -> None:
        self._text = desc

    def close(self) -> None:
        self._send(closed=True)

    def _send(self, closed: bool = False) -> None:
        self._last = time.monotonic()
        self._tower.tell.remote(BarMove(self._step, self._total, self._text, closed))


# ---- on the driver ----


@contextmanager
def shown(tower: Any, run: str) -> Iterator[Channel]:
    """Shows on this process's console what workers say while the context is open.

    Args:
        tower: The actor to fetch it from.
        run: Name of the run.

    Raises:
        ValueError: If :data:`WORKER_OUTPUT` has an unknown value.
    """
    wanted = os.environ.get(WORKER_OUTPUT, "first")
    if wanted not in ("first", "all"):
        raise ValueError(f"{WORKER_OUTPUT}={wanted!r}; expected 'first' or 'all'.")
    screen = Screen()
    over = threading.Event()

    def pump() -> None:
        with suppress(RayError):  # the tower is gone, and the run with it
            while not over.is_set():
                for item in ray.get(tower.lines.remote()):
                    screen.show(item)

    thread = threading.Thread(target=pump, name="ray_st-console", daemon=True)
    send_to(screen.show)  # lines of this process must not break the bar either
    thread.start()
    try:
        yield Channel(tower, run, os.environ.get(LOG_FORMAT, "text"), wanted == "all")
    finally:
        over.set()
        with suppress(RayError):
            ray.get(tower.close_lines.remote())
        thread.join()
        screen.close()
        send_to(None)


# ---- on a worker ----


@contextmanager
def speaking(channel: Channel, world: World, log_level: int) -> Iterator[None]:
    """Sends this worker's events, and the first one's output, to the driver's console.

    What is printed, and what is logged from ``log_level`` on, comes from the first worker, or from all; the others' goes
    to Ray's files as ever.

    Args:
        channel: The way there.
        world: This worker's place.
        log_level: Least level of ``logging`` records to show.
    """
    os.environ[LOG_FORMAT] = channel.log_format
    set_context(run=channel.run, rank=world.rank)
    send_to(channel.say)
    if not (world.is_first or channel.all_ranks):
        yield
        return
    prefix = f"[rank {world.rank}] " if channel.all_ranks and world.size > 1 else ""
    with LineStream(lambda line: _say_if_heard(channel, prefix + line)) as stream:
        handler = logging.StreamHandler(stream)
        handler.setLevel(log_level)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        logging.captureWarnings(True)
        try:
            with redirect_stdout(stream):
                yield
        finally:
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(handler)


def _say_if_heard(channel: Channel, line: str) -> None:
    with suppress(RayError):  # a run that ends has bigger trouble than a line nobody hears
        channel.say(line)
