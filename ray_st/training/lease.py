"""One writer a run: the driver that holds a run's folder keeps a lease in it alive."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from ray_st.training.checkpoint import CheckpointStore
from ray_st.util.events import tell

LEASE = "lease.json"
"""The file, in the run's folder."""

BEAT_S = 5.0
"""Seconds between two signs of life."""

STALE_S = 20.0
"""Without a sign of life for so long, the holder is gone. Seen with the reader's own clock: clocks may differ."""


class RunInUse(ValueError):
    """Another driver is writing into the run's folder."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run's folder.

    Args:
        owner: Different for each holding.
        host: Name of the machine, and of the process's namespace on it.
        pid: Number of the process there.
        beat: Goes up with each sign of life.
    """

    owner: str
    host: str
    pid: int
    beat: int = 0

    @classmethod
    def here(cls) -> Holder:
        """This process, as a new holder."""
        return cls(uuid.uuid4().hex, _host(), os.getpid())

    @property
    def is_gone(self) -> bool:
        """Whether this is known to be a process of this machine that has ended."""
        if self.host != _host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it lives, under another user
            return False
        return False


def _host() -> str:
    namespace = ""
    with suppress(OSError):  # only Linux has it
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}{namespace}"


def read(store: CheckpointStore) -> Holder | None:
    """Who holds a folder, or None. What is no lease counts as none: a crash may have torn it."""
    path = store.location(LEASE)
    if not store.filesystem.get_file_info(path).is_file:
        return None
    try:
        with store.filesystem.open_input_stream(path) as stream:
            return Holder(**json.loads(stream.read()))
    except (ValueError, TypeError, FileNotFoundError):
        return None


def write(store: CheckpointStore, holder: Holder) -> None:
    """Puts a holder's name on a folder."""
    store.filesystem.create_dir(store.path, recursive=True)
    with store.filesystem.open_output_stream(store.location(LEASE)) as stream:
        stream.write(json.dumps(asdict(holder)).encode())


def check_free(store: CheckpointStore, stale_s: float = STALE_S, poll_s: float = 0.5) -> None:
    """Refuses a folder that another driver is writing into.

    A driver that was killed leaves its lease behind. On the same machine that shows at once; elsewhere only time
    tells, so this waits until the holder gives a sign of life, or has given none for ``stale_s``.

    Args:
        store: The run's folder.
        stale_s: See :data:`STALE_S`.
        poll_s: Seconds between two looks.

    Raises:
        RunInUse: Naming the holder.
    """
    first = read(store)
    if first is None:
        return
    pause, end = threading.Event(), time.monotonic() + stale_s
    while not first.is_gone and time.monotonic() < end:
        pause.wait(poll_s)
        now = read(store)
        if now is None:
            return
        if now != first:
            raise RunInUse(
                f"The run's folder {store.path} is in use: process {now.pid} on {now.host.partition('pid:')[0]} is "
                "writing into it. Wait for that run to end, stop it, or choose another output_dir (or run.name)."
            )
    tell("lease.taken", f"{store.path} was left by process {first.pid}, which is gone", pid=first.pid)


@contextmanager
def held(store: CheckpointStore, on_lost: Callable[[], Any], beat_s: float = BEAT_S) -> Iterator[Holder]:
    """Holds a run's folder while the context is open.

    Args:
        store: The run's folder; see :func:`check_free`.
        on_lost: Called, from another thread, if another driver takes it.
        beat_s: Seconds between two signs of life.
    """
    holder = Holder.here()
    write(store, holder)
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, holder, over, on_lost, beat_s), daemon=True)
    thread.start()
    try:
        yield holder
    finally:
        over.set()
        thread.join()
        with suppress(OSError):  # then it goes stale
            if _is_ours(store, holder):
                store.filesystem.delete_file(store.location(LEASE))


def _beat(
    store: CheckpointStore, holder: Holder, over: threading.Event, on_lost: Callable[[], Any], beat_s: float
) -> None:
    beat = 0
    while not over.wait(beat_s):
        beat += 1
        with suppress(OSError):  # storage may be away for a while
            if not _is_ours(store, holder):
                tell(
                    "lease.lost", f"another driver has taken {store.path}; this one stops", folder=store.path
                )
                on_lost()
                return
            write(store, Holder(holder.owner, holder.host, holder.pid, beat))


def _is_ours(store: CheckpointStore, holder: Holder) -> bool:
    found = read(store)
    return found is None or found.owner == holder.owner
