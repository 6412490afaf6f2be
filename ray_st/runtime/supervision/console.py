"""What workers say, on the driver's console: lines, and a bar where there is a terminal or a notebook.

Events of workers go through the driver's ``logging``, as if they had happened there; what workers print is
shown as it is. Workers send both to the run's monitor, and the driver fetches it from there. Ray's own way to
the driver would put the worker's name before each line, leave out lines that look alike, and bring Ray's own
messages along.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from ray_st.util.events import LOG_FORMAT, relayed, send_records_to, set_context
from ray_st.util.line_stream import LineStream
from ray_st.util.screen import BarMove, Screen, SentBar
from ray_st.util.screen import shown as screen_shown
from ray_st.world import World

WORKER_OUTPUT = "RAY_ST_WORKER_OUTPUT"
"""Environment variable of the driver.

``first`` (default) or ``all``, the workers whose ``print`` it shows.
"""

_BAR_EVERY_S = 0.2


@dataclass(frozen=True)
class Channel:
    """A worker's way to the driver's console.

    Args:
        monitor: The actor that passes on what is said.
        run: Name of the run.
        log_format: Of events, see :data:`ray_st.util.events.LOG_FORMAT`.
        all_ranks: Whether to show what every rank prints, not only the first.
    """

    monitor: Any
    run: str
    log_format: str
    all_ranks: bool

    def say(self, item: str | BarMove | logging.LogRecord) -> None:
        """Sends an item to the driver's console."""
        ray.get(self.monitor.say.remote(item))

    def open_bar(self, total: int) -> SentBar:
        """Opens a bar of so many steps on the driver's console; it hears of it a few times a second."""
        return SentBar(self.monitor.say.remote, total, _BAR_EVERY_S)


# ---- on the driver ----


@contextmanager
def shown(monitor: Any, run: str) -> Iterator[Channel]:
    """Shows on this process's console what workers say while the context is open.

    Args:
        monitor: The actor to fetch it from.
        run: Name of the run.

    Raises:
        ValueError: If :data:`WORKER_OUTPUT` has an unknown value.
    """
    wanted = os.environ.get(WORKER_OUTPUT, "first")
    if wanted not in ("first", "all"):
        raise ValueError(f"{WORKER_OUTPUT}={wanted!r}; expected 'first' or 'all'.")
    over = threading.Event()

    def pump(screen: Screen) -> None:
        with suppress(RayError):  # the monitor is gone, and the run with it
            while not over.is_set():
                for item in ray.get(monitor.lines.remote()):
                    if isinstance(item, logging.LogRecord):
                        relayed(item)
                    else:
                        screen.show(item)

    with screen_shown() as screen:
        thread = threading.Thread(target=pump, args=(screen,), name="ray_st-console", daemon=True)
        thread.start()
        try:
            yield Channel(monitor, run, os.environ.get(LOG_FORMAT, "text"), wanted == "all")
        finally:
            over.set()
            with suppress(RayError):
                ray.get(monitor.close_lines.remote())
            thread.join()


# ---- on a worker ----


@contextmanager
def speaking(channel: Channel, world: World, log_level: int) -> Iterator[None]:
    """Sends this worker's events, and the first one's output, to the driver's console.

    What is printed, and what is logged from ``log_level`` on, comes from the first worker, or from all; the
    others' goes to Ray's files as ever.

    Args:
        channel: The way there.
        world: This worker's place.
        log_level: Least level of ``logging`` records to show.
    """
    os.environ[LOG_FORMAT] = channel.log_format
    set_context(run=channel.run, rank=world.rank)
    send_records_to(channel.say)
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
