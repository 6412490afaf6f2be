"""Resolves a path or a URI to a pyarrow file system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def is_uri(place: str | Path) -> bool:
    """Whether a location is a URI such as ``s3://bucket/folder`` rather than a local path."""
    return "://" in str(place)


def open_place(place: str | Path) -> tuple[FileSystem, str]:
    """The file system of a file or folder, and its path there.

    Args:
        place: A local path, or a URI.

    Raises:
        ValueError, OSError, ImportError: From pyarrow, if no file system can open it.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem

    if is_uri(place):
        filesystem, path = FileSystem.from_uri(str(place))
        return filesystem, path
    return LocalFileSystem(), str(Path(place).absolute())
