"""A search's records in the user's storage: copied while it runs, and fetched where it is continued.

The folder on the driver's machine stays the truth of the running driver: an event is on its disk before
anything acts on it. A thread copies what is new about a second later. Another machine finds the search by its
name alone, and continues it from the copy.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow.fs as pafs

from ray_st.study.journal import JOURNAL, RecordError
from ray_st.study.journal_pieces import Piece, Pieces, chain
from ray_st.study.search_settings import FOUND, ID, SETTINGS
from ray_st.util.atomic import is_unfinished, write_whole
from ray_st.util.endings import LeaseLost
from ray_st.util.events import notes

PIECES = "journal"
"""Folder of the journal's pieces."""

DELAY_S = 1.0
"""Seconds between two looks for new events."""

FILES_S = 10.0
"""Seconds between two copies of tables and reports, which the journal could restore."""

CLOSING_S = 120.0
"""How long the end of a search waits for a storage that is away."""

_KINDS = (".csv", ".html", ".json", ".yaml")
_NOT_COPIED = ("lease.json",)
_MOST_BYTES = 1 << 22
"""Most bytes of a piece, so that little is in memory after the storage was away for long."""


@dataclass(frozen=True)
class Home:
    """A search's folder in the user's storage.

    Args:
        filesystem: Its file system.
        path: Its path there.
    """

    filesystem: pafs.FileSystem
    path: str

    def _at(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def part(self, name: str) -> Home:
        """A folder in it, which has a journal of its own."""
        return Home(self.filesystem, self._at(name))

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        if not self.filesystem.get_file_info(self._at(name)).is_file:
            return None
        with self.filesystem.open_input_stream(self._at(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Writes a file that appears whole or not at all."""
        place = self._at(name)
        self.filesystem.create_dir(place.rpartition("/")[0], recursive=True)
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            write_whole(Path(place), content)
            return
        with self.filesystem.open_output_stream(place) as stream:
            stream.write(content)  # object stores publish the object when the stream is closed

    def pieces(self) -> list[Piece]:
        """The journal's pieces, all of them."""
        selector = pafs.FileSelector(self._at(PIECES), allow_not_found=True)
        found = (Piece.named(info.base_name) for info in self.filesystem.get_file_info(selector))
        return [piece for piece in found if piece is not None]

    def delete(self, piece: Piece) -> None:
        """Deletes a piece."""
        self.filesystem.delete_file(self._at(f"{PIECES}/{piece.name}"))

    def journal(self) -> bytes:
        """The journal, as far as it was copied.

        Raises:
            RecordError: If a piece is damaged; names it.
        """
        found, pieces = [], chain(self.pieces())
        for piece in pieces:
            content = self.read(f"{PIECES}/{piece.name}") or b""
            lines, expected = _lines(content), piece.end - piece.first
            if lines != expected or not content.endswith(b"\n"):
                if piece == pieces[-1]:  # its writer was killed
                    break
                raise RecordError(
                    f"{self._at(PIECES)}/{piece.name} is damaged: expected {expected} lines, found {lines}. "
                    "Start the search under another name."
                )
            found.append(content)
        return b"".join(found)


def _lines(content: bytes) -> int:
    return content.count(b"\n")


# ---- fetching ----


def fetch(folder: Path, home: Home, parts: Sequence[str] = ()) -> None:
    """Brings a search's folder on this machine up to its copy in the storage, if there is one.

    Args:
        folder: The folder on this machine, which may be empty, behind the copy, or ahead of it.
        home: The search's folder in the storage.
        parts: Folders in it that have a journal of their own.

    Raises:
        RecordError: If the two are different searches, or continued differently.
    """
    copied = home.read(SETTINGS)
    if copied is None:
        return
    there, here = _settings(copied, home.path), None
    if (folder / SETTINGS).exists():
        here = _settings((folder / SETTINGS).read_bytes(), str(folder))
        _check_same_search(folder, home, here, there)
    _fetch_journal(folder, home)
    for part in parts:
        _fetch_journal(folder / part, home.part(part))
    if here is None or (FOUND in there and FOUND not in here):
        write_whole(folder / SETTINGS, copied)


def _fetch_journal(folder: Path, home: Home) -> None:
    path = folder / JOURNAL
    _check_continues(path, home, mine := _whole_lines(path), theirs := home.journal())
    if len(theirs) > len(mine):
        folder.mkdir(exist_ok=True)
        write_whole(path, theirs)
        notes.info(f"{_lines(theirs) - _lines(mine)} events of the search come from {home.path}")


def _settings(content: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise RecordError(
            f"{place}/{SETTINGS} is damaged ({error}). Start the search under another name."
        ) from error
    if not isinstance(found, dict):
        raise RecordError(
            f"{place}/{SETTINGS} does not hold a search's settings. Start the search under another name."
        )
    return found


def _whole_lines(path: Path) -> bytes:
    """A journal without an incomplete last line."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _check_same_search(folder: Path, home: Home, here: dict[str, Any], there: dict[str, Any]) -> None:
    one, other = (settings.get(ID) or "one without an id" for settings in (here, there))
    if one != other:
        raise RecordError(
            f"{folder} and {home.path} hold two searches of this name: {one} and {other}. Start this one "
            "under another name; or, to continue the one in the storage, move the folder here away."
        )


def _check_continues(path: Path, home: Home, mine: bytes, theirs: bytes) -> None:
    """Checks that one of two journals is the beginning of the other."""
    if mine.startswith(theirs) or theirs.startswith(mine):
        return
    pairs = zip(mine.splitlines(), theirs.splitlines(), strict=False)
    line = next(number for number, (one, other) in enumerate(pairs, 1) if one != other)
    raise RecordError(
        f"The search was continued on two machines: {path} and its copy in {home.path} differ from line "
        f"{line} on ({_lines(mine)} and {_lines(theirs)} lines). To continue the one in the storage, move "
        f"{path} away; trials that only the other one knows are lost."
    )


# ---- copying ----


class Mirror:
    """Copies a search's records to the storage while the context is open, in a thread of its own.

    The search never waits for it. While the storage is away, it says so once and tries again; what is to be
    copied stays on the driver's disk, not in memory. If another driver has taken the search, nothing more is
    written.

    Args:
        folder: The search's folder on this machine.
        home: Its folder in the storage.
        check_fence: Called before anything is written; raises if another driver has taken the search.
        delay_s: See :data:`DELAY_S`.
        closing_s: See :data:`CLOSING_S`.

    Attributes:
        copied: How many bytes of the journal are in the storage.
        lost: Why nothing is copied any more; None while this driver holds the search.
    """

    def __init__(
        self,
        folder: Path,
        home: Home,
        check_fence: Callable[[], None],
        delay_s: float = DELAY_S,
        closing_s: float = CLOSING_S,
    ) -> None:
        self._folder, self._home, self._check_fence = folder, home, check_fence
        self._delay_s, self._closing_s = delay_s, closing_s
        self._journal = folder / JOURNAL
        self.copied = 0
        self.lost: LeaseLost | None = None
        self._begins: dict[int, int] = {}  # the byte at which a piece begins, by its first line
        self._seen: dict[str, tuple[int, int]] = {}  # what was copied of other files
        self._files_due = 0.0
        self._away = False
        self._give_up_at = 0.0
        self._over, self._passed = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ray_st-mirror", daemon=True)

    def __enter__(self) -> Mirror:
        """Copies what there is, then goes on in the background.

        Raises:
            OSError: If the storage cannot be written.
        """
        before = self._home.pieces()
        self._pieces = Pieces(max((piece.era for piece in before), default=0) + 1)
        # In one piece: a driver killed here leaves the copy of the era before, or the whole of this one.
        self._copy(all_files=True, most_bytes=None)
        if self.copied:
            for piece in before:
                self._home.delete(piece)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Copies the rest; gives up after a while if the storage is away."""
        self.finish()
        self._thread.join(max(self._give_up_at - time.monotonic(), 0) + 2 * self._delay_s)
        if self.lost is None and self.copied < self.size():
            notes.warning(
                f"warning: {self._home.path} could not be written: the last events of the search are only in "
                f"{self._folder}. Started again on this machine, the search copies them"
            )

    def finish(self) -> None:
        """Begins to copy the rest, which the end of the context waits for."""
        if not self._over.is_set():
            self._give_up_at = time.monotonic() + self._closing_s
            self._over.set()

    def size(self) -> int:
        """How many bytes the journal has on this machine."""
        return self._journal.stat().st_size if self._journal.exists() else 0

    def wait(self, timeout_s: float) -> bool:
        """Waits until all that is in the journal now is in the storage; returns whether it is.

        Args:
            timeout_s: How long to wait at most.
        """
        size = self.size()
        with self._passed:
            self._passed.wait_for(lambda: self.copied >= size or self.lost is not None, timeout_s)
        return self.copied >= size

    def check(self) -> None:
        """Raises if another driver has taken the search; costs nothing.

        Raises:
            LeaseLost: Naming it.
        """
        if self.lost is not None:
            raise self.lost

    def _run(self) -> None:
        while self.lost is None:
            closing = self._over.wait(self._delay_s)
            done = self._attempt(closing)
            if closing and (done or time.monotonic() > self._give_up_at):
                return
            if closing:
                time.sleep(self._delay_s)

    def _attempt(self, closing: bool) -> bool:
        """Copies what is new; returns whether that succeeded."""
        try:
            self._copy(closing, _MOST_BYTES)
        except LeaseLost as error:
            self.lost = error
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            self._say_away(error)
            return False
        else:
            self._say_back()
        with self._passed:
            self._passed.notify_all()
        return self.lost is None

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            notes.warning(
                f"warning: {self._home.path} cannot be written ({type(error).__name__}: {error}). The search "
                f"continues; its records are in {self._folder}, and copied when the storage is back"
            )
        self._away = True

    def _say_back(self) -> None:
        if self._away:
            notes.info(f"{self._home.path} is back; it holds all of the search again")
        self._away = False

    def _copy(self, all_files: bool, most_bytes: int | None) -> None:
        self._check_fence()
        self._copy_file(self._folder / SETTINGS)
        while (content := self._next_lines(most_bytes)) != b"":
            piece = self._pieces.next(_lines(content))
            self._home.write(f"{PIECES}/{piece.name}", content)
            self._begins[piece.first] = self.copied
            self._pieces.add(piece)
            self.copied += len(content)
        self._merge()
        if all_files or time.monotonic() >= self._files_due:
            self._files_due = time.monotonic() + FILES_S
            for path in sorted(self._folder.glob("*")):  # none if the folder is not there yet
                self._copy_file(path)

    def _next_lines(self, most_bytes: int | None) -> bytes:
        """Whole lines that are not copied yet; at least one if there is one."""
        if self.size() <= self.copied:
            return b""
        with self._journal.open("rb") as stream:
            stream.seek(self.copied)
            content = stream.read(most_bytes)
            if b"\n" not in content:
                content += stream.readline()
        return content[: content.rfind(b"\n") + 1]

    def _merge(self) -> None:
        while due := self._pieces.due():
            merged = self._pieces.merged()
            begin = self._begins[merged.first]
            with self._journal.open("rb") as stream:
                stream.seek(begin)
                self._home.write(f"{PIECES}/{merged.name}", stream.read(self.copied - begin))
            self._pieces.replace(merged)
            for piece in due[1:]:
                del self._begins[piece.first]
            for piece in due:  # one that stays is ignored
                self._home.delete(piece)

    def _copy_file(self, path: Path) -> None:
        """Copies a table, a report or settings, if it has changed."""
        if path.suffix not in _KINDS or path.name in _NOT_COPIED or is_unfinished(path.name):
            return
        try:
            found = path.stat()
            version = (found.st_mtime_ns, found.st_size)
            if self._seen.get(path.name) != version:
                self._home.write(path.name, path.read_bytes())
                self._seen[path.name] = version
        except FileNotFoundError:
            if path.exists():  # else it was deleted meanwhile
                raise
