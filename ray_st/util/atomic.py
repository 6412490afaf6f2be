"""Files that appear completely or not at all: written next to their final path, then moved there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from pyarrow.lib import NativeFile

_PREFIX, _SUFFIX = ".writing-", ".part"  # readers of folders skip names that start with a dot


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces the file if the block succeeds, and is deleted otherwise.

    Args:
        path: The file to replace, on a local disk; its folder must exist.
    """
    part = path.with_name(_unfinished(path.name))
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a local file atomically.

    Args:
        path: The file; its folder must exist.
        content: Its content; text is encoded as UTF-8.
    """
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_in(filesystem: FileSystem, path: str) -> Iterator[NativeFile]:
    """Yields a stream whose content becomes the file if the block succeeds; otherwise it is deleted.

    Args:
        filesystem: The file system.
        path: Its path there.
    """
    folder, slash, name = path.rpartition("/")
    part = f"{folder}{slash}{_unfinished(name)}"
    try:
        with filesystem.open_output_stream(part) as stream:
            yield stream
        filesystem.move(part, path)
    finally:
        if filesystem.get_file_info(part).is_file:
            filesystem.delete_file(part)


def is_unfinished(name: str) -> bool:
    """Whether a file with this name is the leftover of a killed writer."""
    return name.startswith(_PREFIX)


def _unfinished(name: str) -> str:
    return f"{_PREFIX}{name}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
