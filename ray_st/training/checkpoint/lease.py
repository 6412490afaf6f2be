"""One writer a folder: its holder keeps a lease in it alive, and whoever lost the lease writes nothing more.

The driver of a run holds the run's folder (:func:`held`). What writes there on other processes carries the
lease's :class:`Fence` and checks it before anything becomes visible: workers outlive a driver that is stopped
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

import pyarrow.fs as pafs

from ray_st.util.atomic import write_whole
from ray_st.util.endings import LeaseLost
from ray_st.util.events import event

LEASE = "lease.json"
"""The file, in the folder that is held."""

BEAT_S = 5.0
"""Seconds between two signs of life."""

STALE_S = 20.0
"""Seconds without a sign of life after which the holder is gone.

Measured by the reader's own clock, since clocks may differ.
"""

POLL_S = 0.5
"""Seconds between two looks at another holder's lease."""


class RunInUse(ValueError):
    """Another driver is writing into the folder."""


class Folder(Protocol):
    """A folder that can be held, such as a :class:`ray_st.training.checkpoint.store.CheckpointStore`."""

    @property
    def path(self) -> str:
        """The folder, as its file system names it."""

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
        beat: Goes up with each sign of life.
        released: Whether the holding has ended. The file stays: someone who lost the folder without noticing
            must not find it as if nobody had ever taken it.
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


@dataclass(frozen=True)
class Fence:
    """The right to write into a folder, which lasts until another holder takes it. Travels to any process.

    Args:
        path: The folder.
        filesystem: Its file system.
        owner: The holder whose right this is.
    """

    path: str
    filesystem: pafs.FileSystem
    owner: str

    def check(self) -> None:
        """Makes sure that the folder has not been taken since. A lease that is not there was taken by nobody.

        Raises:
            LeaseLost: If another holder has taken it.
            OSError: If storage is away.
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
        fence: What every writer into the folder needs.
    """

    def __init__(self, folder: Folder) -> None:
        self._holder = Holder.here()
        self.fence = Fence(folder.path, folder.filesystem, self._holder.owner)
        self._lock = threading.Lock()
        self._lost = False
        self._calls: list[Callable[[], object]] = []

    def when_lost(self, call: Callable[[], object]) -> None:
        """Calls a function, in another thread, when another driver takes the folder; at once if one has."""
        with self._lock:
            self._calls.append(call)
            lost = self._lost
        if lost:
            call()

    def take(self, settle_s: float) -> None:
        """Puts this holder's name on the folder.

        Args:
            settle_s: Seconds after which the name must still be there: of two drivers that start at the same
                moment, the one that wrote last stays.

        Raises:
            RunInUse: If it is not.
        """
        write(self.fence, self._holder)
        threading.Event().wait(settle_s)
        found = read(self.fence)
        if found is not None and found.owner != self._holder.owner:
            raise _in_use(self.fence, found)

    def keep(self, over: threading.Event, beat_s: float) -> None:
        """Gives signs of life until it is over, or another driver has taken the folder."""
        while not over.wait(beat_s):
            with suppress(OSError):  # storage may be away for a while
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
        """Says that the folder is free, if it is still held."""
        with suppress(OSError, LeaseLost):  # where storage is away, the lease goes stale
            self.fence.check()
            write(self.fence, replace(self._holder, released=True))


def read(folder: Folder) -> Holder | None:
    """Who holds a folder, or held it last; None where nobody ever did.

    A lease that cannot be read is being written, or was torn by a crash: its holder has no host, and another
    owner as soon as its text is another.
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
    """Puts a holder's name on a folder, in one piece: nobody reads half a lease."""
    text = json.dumps(asdict(holder)).encode()
    folder.filesystem.create_dir(folder.path, recursive=True)
    if isinstance(folder.filesystem, pafs.LocalFileSystem):
        write_whole(Path(folder.path) / LEASE, text)
        return
    with folder.filesystem.open_output_stream(f"{folder.path.rstrip('/')}/{LEASE}") as stream:
        stream.write(text)  # an object store shows the object when the stream is closed


def check_free(folder: Folder, stale_s: float = STALE_S, poll_s: float = POLL_S) -> None:
    """Refuses a folder that another driver is writing into.

    A driver that was killed leaves its lease behind. On the same machine that shows at once; elsewhere only
    time tells, so this waits until the holder gives a sign of life, or has given none for ``stale_s``.

    Args:
        folder: The folder.
        stale_s: See :data:`STALE_S`.
        poll_s: Seconds between two looks.

    Raises:
        RunInUse: Naming the holder.
    """
    first = read(folder)
    if first is None or first.released:
        return
    pause, end = threading.Event(), time.monotonic() + stale_s
    while not first.is_gone and time.monotonic() < end:
        pause.wait(poll_s)
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
        beat_s: Seconds between two signs of life.
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
