"""Worker output on the driver's console: lines, and a progress bar on a terminal or in a notebook.

Worker events go through the driver's ``logging``, as if raised there; printed text is shown unchanged.
Workers send both to the run's monitor, from which the driver fetches them. Ray's own log forwarding would
prefix each line with the worker's name, drop similar lines, and include Ray's own messages.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from ray_st.runtime.cluster.handles import Actor
from ray_st.util.events import LOG_FORMAT, relayed, send_records_to, set_context
from ray_st.util.screen import BarMove, LineStream, Screen, SentBar
from ray_st.util.screen import shown as screen_shown
from ray_st.world import World

WORKER_OUTPUT = "RAY_ST_WORKER_OUTPUT"
"""Environment variable of the driver.

``first`` (default) or ``all``: the workers whose printed output is shown.
"""

_BAR_EVERY_S = 0.2


@dataclass(frozen=True)
class Channel:
    """A worker's channel to the driver's console.

    Args:
        monitor: The actor that forwards items.
        run: Name of the run.
        log_format: Format of events, see :data:`ray_st.util.events.LOG_FORMAT`.
        all_ranks: Whether to show the output of every rank, not only the first.
    """

    monitor: Actor
    run: str
    log_format: str
    all_ranks: bool

    def say(self, item: str | BarMove | logging.LogRecord) -> None:
        """Sends an item to the driver's console."""
        ray.get(self.monitor.say.remote(item))

    def open_bar(self, total: int) -> SentBar:
        """Opens a bar with a number of steps on the driver's console, updated a few times per second."""
        return SentBar(self.monitor.say.remote, total, _BAR_EVERY_S)


# ---- on the driver ----


@contextmanager
def shown(monitor: Actor, run: str) -> Iterator[Channel]:
    """Shows worker output on this process's console while the context is open.

    Args:
        monitor: The actor to fetch the output from.
        run: Name of the run.

    Raises:
        ValueError: If :data:`WORKER_OUTPUT` has an unknown value.
    """
    wanted = os.environ.get(WORKER_OUTPUT, "first")
    if wanted not in ("first", "all"):
        raise ValueError(f"{WORKER_OUTPUT}={wanted!r}; expected 'first' or 'all'.")
    over = threading.Event()

    def pump(screen: Screen) -> None:
        with suppress(RayError):  # the monitor is gone, so the run has ended
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
    """Sends this worker's events, and its output if it is the first worker, to the driver's console.

    Printed text, and log records from ``log_level`` up, are sent by the first worker, or by all of them; the
    other workers' output goes to Ray's log files as usual.

    Args:
        channel: The channel to the console.
        world: This worker's position in its group.
        log_level: Minimum level of ``logging`` records to show.
    """
    os.environ[LOG_FORMAT] = channel.log_format
    set_context(run=channel.run, rank=world.rank)
    send_records_to(channel.say)
    if not (world.is_first or channel.all_ranks):
        yield
        return
    prefix = f"[rank {world.rank}] " if channel.all_ranks and world.size > 1 else ""
    with LineStream(lambda line: _say_unless_ending(channel, prefix + line)) as stream:
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


def _say_unless_ending(channel: Channel, line: str) -> None:
    with suppress(RayError):  # a line lost while the run ends does not matter
        channel.say(line)
