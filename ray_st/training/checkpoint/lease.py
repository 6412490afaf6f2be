"""One writer per folder: the holder renews a lease in it, and a holder that lost its lease stops writing.

The driver of a run holds the run's folder (:func:`held`). Writers in other processes carry the lease's
:class:`Fence` and check it before anything becomes visible, because workers outlive a driver that is stopped
or cut off.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil
import pyarrow.fs as pafs

from ray_st.util.atomic import write_whole
from ray_st.util.endings import LeaseLost
from ray_st.util.events import event

LEASE = "lease.json"
"""Name of the lease file in the held folder."""

BEAT_S = 5.0
"""Seconds between two heartbeats."""

STALE_S = 20.0
"""Seconds without a heartbeat after which the holder is considered gone.

Measured by the reader's clock, since clocks may differ.
"""

POLL_S = 0.5
"""Seconds between two reads of another holder's lease."""


class RunInUse(ValueError):
    """Another driver is writing into the folder."""


class Folder(Protocol):
    """A folder that can be held, such as a :class:`ray_st.training.checkpoint.store.CheckpointStore`."""

    @property
    def path(self) -> str:
        """The folder's path on its file system."""

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Its file system."""


@dataclass(frozen=True)
class Holder:
    """Who holds a folder.

    Args:
        owner: Different for each holding.
        host: Name of the machine, and of the process's namespace on it.
        pid: Number of the process there.
        beat: Incremented with each heartbeat.
        released: Whether the holder has released the folder. The file stays, so that a holder that lost the
            folder without noticing does not find it as if it had never been taken.
    """

    owner: str
    host: str
    pid: int
    beat: int = 0
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """This process, as a new holder."""
        return cls(uuid.uuid4().hex, _host(), os.getpid())

    @property
    def is_gone(self) -> bool:
        """Whether the holder is known to be a process on this machine that has ended."""
        return self.host == _host() and not psutil.pid_exists(self.pid)


def _host() -> str:
    namespace = ""
    with suppress(OSError):  # only Linux has it
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}{namespace}"


@dataclass(frozen=True)
class Fence:
    """The right to write to a folder, valid until another holder takes it. Can be sent to any process.

    Args:
        path: The folder.
        filesystem: Its file system.
        owner: The holder that has this right.
    """

    path: str
    filesystem: pafs.FileSystem
    owner: str

    def check(self) -> None:
        """Checks that the folder has not been taken since. A missing lease counts as not taken.

        Raises:
            LeaseLost: If another holder has taken it.
            OSError: If storage is unavailable.
        """
        found = read(self)
        if found is not None and found.host and found.owner != self.owner:
            raise LeaseLost(
                f"The folder {self.path} was taken by process {found.pid} on {_machine(found)} while this "
                "run was stopped or cut off. This run ends and writes nothing more into it."
            )


class Lease:
    """A folder that this process holds; see :func:`held`.

    Attributes:
        fence: Required by every writer to the folder.
    """

    def __init__(self, folder: Folder) -> None:
        self._holder = Holder.here()
        self.fence = Fence(folder.path, folder.filesystem, self._holder.owner)
        self._lock = threading.Lock()
        self._lost = False
        self._calls: list[Callable[[], object]] = []

    def when_lost(self, call: Callable[[], object]) -> None:
        """Calls a function, in another thread, once another driver takes the folder or already has."""
        with self._lock:
            self._calls.append(call)
            lost = self._lost
        if lost:
            call()

    def take(self, settle_s: float) -> None:
        """Writes this holder's lease to the folder.

        Args:
            settle_s: Seconds after which the lease must still be this holder's: of two drivers that start at
                the same moment, the one that wrote last wins.

        Raises:
            RunInUse: If it is not.
        """
        write(self.fence, self._holder)
        time.sleep(settle_s)
        found = read(self.fence)
        if found is not None and found.owner != self._holder.owner:
            raise _in_use(self.fence, found)

    def keep(self, over: threading.Event, beat_s: float) -> None:
        """Sends heartbeats until ``over`` is set or another driver has taken the folder."""
        while not over.wait(beat_s):
            with suppress(OSError):  # storage may be temporarily unavailable
                try:
                    self.fence.check()
                except LeaseLost as error:
                    event("lease.lost", str(error), folder=self.fence.path)
                    self._lose()
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                write(self.fence, self._holder)

    def _lose(self) -> None:
        with self._lock:
            self._lost = True
            calls = list(self._calls)
        for call in calls:
            call()

    def release(self) -> None:
        """Releases the folder if it is still held."""
        with suppress(OSError, LeaseLost):  # if storage is unavailable, the lease goes stale
            self.fence.check()
            write(self.fence, replace(self._holder, released=True))


def read(folder: Folder) -> Holder | None:
    """The current or last holder of a folder; None if it was never held.

    A lease that cannot be parsed is being written, or was truncated by a crash: its holder has no host, and
    an owner derived from the text, so that it changes with the text.
    """
    path = f"{folder.path.rstrip('/')}/{LEASE}"
    if not folder.filesystem.get_file_info(path).is_file:
        return None
    try:
        with folder.filesystem.open_input_stream(path) as stream:
            text = stream.read()
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Holder(owner=f"unreadable: {text!r}", host="", pid=0)


def write(folder: Folder, holder: Holder) -> None:
    """Writes a holder's lease to a folder atomically, so that no reader sees a partial one."""
    text = json.dumps(asdict(holder)).encode()
    folder.filesystem.create_dir(folder.path, recursive=True)
    if isinstance(folder.filesystem, pafs.LocalFileSystem):
        write_whole(Path(folder.path) / LEASE, text)
        return
    with folder.filesystem.open_output_stream(f"{folder.path.rstrip('/')}/{LEASE}") as stream:
        stream.write(text)  # object stores publish the object when the stream is closed


def check_free(folder: Folder, stale_s: float = STALE_S, poll_s: float = POLL_S) -> None:
    """Raises if another driver is writing to a folder.

    A killed driver leaves its lease behind. On the same machine this is detected immediately; otherwise this
    waits until the holder sends a heartbeat, or has sent none for ``stale_s``.

    Args:
        folder: The folder.
        stale_s: See :data:`STALE_S`.
        poll_s: Seconds between two reads.

    Raises:
        RunInUse: Naming the holder.
    """
    first = read(folder)
    if first is None or first.released:
        return
    end = time.monotonic() + stale_s
    while not first.is_gone and time.monotonic() < end:
        time.sleep(poll_s)
        now = read(folder)
        if now is None or now.released:
            return
        if now != first:
            raise _in_use(folder, now)
    left_by = f"process {first.pid}, which is gone" if first.host else "a process that wrote no whole lease"
    event("lease.taken", f"{folder.path} was left by {left_by}", pid=first.pid)


def _in_use(folder: Folder, holder: Holder) -> RunInUse:
    return RunInUse(
        f"The run's folder {folder.path} is in use: process {holder.pid} on {_machine(holder)} is "
        "writing into it. Wait for that run to end, stop it, or choose another output_dir (or run.name)."
    )


def _machine(holder: Holder) -> str:
    return holder.host.partition("pid:")[0] or "a machine that is not known"


@contextmanager
def held(
    folder: Folder,
    beat_s: float = BEAT_S,
    stale_s: float = STALE_S,
    poll_s: float = POLL_S,
    settle_s: float | None = None,
) -> Iterator[Lease]:
    """Holds a folder while the context is open: taken first, released last.

    Args:
        folder: The folder; a run's, or a search's.
        beat_s: Seconds between two heartbeats.
        stale_s: See :data:`STALE_S`.
        poll_s: See :data:`POLL_S`.
        settle_s: As for :meth:`Lease.take`; by default 0.1 on a local disk, else 1.

    Raises:
        RunInUse: If another driver holds it.
    """
    if settle_s is None:
        settle_s = 0.1 if isinstance(folder.filesystem, pafs.LocalFileSystem) else 1.0
    check_free(folder, stale_s, poll_s)
    lease = Lease(folder)
    lease.take(settle_s)
    over = threading.Event()
    thread = threading.Thread(target=lease.keep, args=(over, beat_s), name="ray_st-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        lease.release()
