"""The locations of files: paths, folders, patterns and URIs on any pyarrow file system, in a fixed order."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, TypeVar

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, SubTreeFileSystem

from ray_st.data.sources.errors import SourceError, reading
from ray_st.data.sources.source import Limits
from ray_st.util.filesystems import open_location

Paths = str | Path | Sequence[str | Path]

AnyUnit = TypeVar("AnyUnit", bound="FileUnit")

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+]+)://(?P<root>[^/?]*)(?P<path>/?.*?)(?P<query>\?\w+=.*)?")
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class File:
    """A file on a file system.

    Args:
        filesystem: Its file system.
        path: Its path there.
        name: Name in error messages.
        size: Its size in bytes.
        modified: When it was written last, as its file system tells it.
    """

    filesystem: FileSystem
    path: str
    name: str
    size: int
    modified: datetime | None = None

    @property
    def local(self) -> bool:
        """Whether it is on this machine's disk."""
        base = self.filesystem
        while isinstance(base, SubTreeFileSystem):
            base = base.base_fs
        return isinstance(base, LocalFileSystem)

    def check_unchanged(self) -> None:
        """Raises an error if it was written since it was listed.

        Raises:
            SourceError: Naming the file.
        """
        with reading(self.name, "a file"):
            now = self.filesystem.get_file_info(self.path)
        if now.size is None or (now.size, now.mtime) != (self.size, self.modified):
            raise SourceError(
                f"{self.name}: it was removed or written anew since this run listed its files, so other rows "
                "would come. Start the run again with files that stay as they are."
            )

    def open_stream(self, offset: int = 0) -> pa.NativeFile:
        """Opens it for sequential reading and decompresses it according to a suffix such as ``.gz``.

        Args:
            offset: The byte to start at; only for a file that is not compressed.
        """
        if not offset:
            return self.filesystem.open_input_stream(self.path)
        file = self.filesystem.open_input_file(self.path)
        file.seek(offset)
        return file

    def open_random(self) -> pa.NativeFile:
        """Opens it for random access; a local file is memory-mapped."""
        if isinstance(self.filesystem, LocalFileSystem):
            return pa.memory_map(self.path)
        return self.filesystem.open_input_file(self.path)


@dataclass(frozen=True)
class FileUnit:
    """Base of the units that are a file or a piece of one; see :class:`~ray_st.data.sources.source.Unit`."""

    file: File
    held: ClassVar[bool] = False

    @property
    def seekable(self) -> bool:
        """Whether its rows are counted and can be read from any of them on; most formats cannot."""
        return False

    @property
    def uncounted(self) -> int:
        """Bytes to go through to make it seekable; 0 if that is of no use, as for most formats."""
        return 0

    def counted(self: AnyUnit, limits: Limits) -> AnyUnit:
        """The unit itself: a format whose rows can be counted by a pass overrides this."""
        return self

    def between(self: AnyUnit, start: int, stop: int) -> AnyUnit:
        """The unit itself: a format that can leave out rows overrides this."""
        return self

    @property
    def decoded(self) -> int:
        """About how many rows are decoded together; few in most formats."""
        return 1

    def check_unchanged(self) -> None:
        """Raises an error if the file was written since it was listed."""
        self.file.check_unchanged()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.name

    @property
    def local(self) -> bool:
        """Whether the file is on this machine."""
        return self.file.local


def list_files(paths: Paths, filesystem: FileSystem | None, suffixes: Sequence[str]) -> list[File]:
    """The files that paths refer to.

    Args:
        paths: A file, a folder, a pattern (``*``, ``?``, ``[…]`` and ``**`` for folders at any depth) or a
            URI of one of these (``s3://bucket/folder/*.parquet``), or several.
        filesystem: The file system of paths without a scheme; by default this machine's.
        suffixes: The suffixes of files to take from a folder.

    Returns:
        Files in the order of `paths`; those from a folder or a pattern are sorted by path.

    Raises:
        SourceError: If a path matches no file, or a file is empty.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    if not listed:
        raise SourceError("no paths are given; name at least one file, folder or pattern.")
    return [file for path in listed for file in _expanded(str(path), filesystem, suffixes)]


def _expanded(path: str, filesystem: FileSystem | None, suffixes: Sequence[str]) -> Iterator[File]:
    store, inner, prefix = _opened(path, filesystem)
    with reading(path, "a path"):
        infos = _matching(store, inner, suffixes)
    if not infos:
        raise SourceError(f"{path}: no such file; {_found_nothing(store, inner, suffixes)}")
    for info in infos:
        inner_path = info.path.removeprefix("./")
        if info.size == 0:
            raise SourceError(f"{prefix}{inner_path}: the file is empty; remove it, or write it again.")
        yield File(store, inner_path, prefix + inner_path, info.size or 0, info.mtime)


def _opened(path: str, filesystem: FileSystem | None) -> tuple[FileSystem, str, str]:
    """The file system, the path in it, and the prefix that turns its paths into full names."""
    uri = _URI.fullmatch(path)
    if filesystem is not None or uri is None:
        return filesystem or LocalFileSystem(), path, ""
    root, query = uri["root"], uri["query"] or ""
    if uri["scheme"] == "file":
        return LocalFileSystem(), uri["path"], ""
    try:
        with reading(path, "a URI"):
            store, base = open_location(f"{uri['scheme']}://{root}{query}")
    except (ValueError, ImportError) as error:
        raise SourceError(f"{path}: no file system opens it: {error}") from error
    return store, posixpath.join(base, uri["path"].lstrip("/")), f"{uri['scheme']}://"


def _matching(store: FileSystem, path: str, suffixes: Sequence[str]) -> list[FileInfo]:
    info = store.get_file_info(path.rstrip("/") or path)
    if info.type == FileType.File:
        return [info]
    if info.type == FileType.Directory:
        found = [
            info
            for info in _below(store, info.path, recursive=True)
            if info.path.lower().endswith(tuple(suffixes))
        ]
    elif _MAGIC.search(path):
        base = _fixed(path)
        pattern = re.compile(_as_regex(path.removeprefix("./")))
        deep = "/" in path[len(base) :].lstrip("/")
        found = [
            info
            for info in _below(store, base, recursive=deep)
            if pattern.fullmatch(info.path.removeprefix("./"))
        ]
    else:
        return []
    return sorted(found, key=lambda info: info.path)


def _below(store: FileSystem, folder: str, recursive: bool) -> list[FileInfo]:
    """Files in a folder, except hidden ones and those that tools leave behind (``_SUCCESS``)."""
    here = "." if not folder and isinstance(store, LocalFileSystem) else folder
    real = _real_path(store, here)
    if recursive and real is not None:
        infos = list(_walked(store, here, (real,)))
    else:
        infos = store.get_file_info(FileSelector(here, allow_not_found=True, recursive=recursive))
    start = len(here.rstrip("/"))
    return [
        info
        for info in infos
        if info.type == FileType.File
        and not any(part[0] in "._" for part in info.path[start:].split("/") if part)
    ]


def _walked(store: FileSystem, folder: str, above: tuple[str, ...]) -> Iterator[FileInfo]:
    """Everything in a folder on this machine, at any depth.

    Follows links, except to a folder that contains them.
    """
    for info in store.get_file_info(FileSelector(folder, allow_not_found=True)):
        yield info
        real = _real_path(store, info.path) if info.type == FileType.Directory else None
        if real is not None and real not in above:
            yield from _walked(store, info.path, (*above, real))


def _real_path(store: FileSystem, path: str) -> str | None:
    """The real path on this machine's disk, with links resolved; None on other file systems."""
    while isinstance(store, SubTreeFileSystem):
        store, path = store.base_fs, posixpath.join(store.base_path, path)
    return os.path.realpath(path) if isinstance(store, LocalFileSystem) else None


def _fixed(path: str) -> str:
    """The folder before the first component of a pattern that contains wildcards."""
    match = _MAGIC.search(path)
    assert match is not None
    return path[: match.start()].rpartition("/")[0] or ("/" if path.startswith("/") else "")


def _as_regex(pattern: str) -> str:
    """A pattern as a regular expression; only ``**/`` crosses folder boundaries."""
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    made = []
    for piece in pieces:
        if piece.startswith("[") and piece.endswith("]"):
            negated = piece[1] == "!"
            characters = re.escape(piece[1 + negated : -1]).replace(r"\-", "-")
            made.append(f"[{'^' * negated}{characters}]")
        else:
            made.append(kinds.get(piece) or re.escape(piece))
    return "".join(made)


def _found_nothing(store: FileSystem, path: str, suffixes: Sequence[str]) -> str:
    info = store.get_file_info(path.rstrip("/") or path)
    if info.type == FileType.Directory:
        return f"the folder holds none that ends in one of {', '.join(suffixes)}."
    if _MAGIC.search(path):
        return "the pattern matches none (`*` stays within a folder, `**/` goes into folders)."
    return "paths without a scheme start at the working directory."
