"""From a path or a URI to a file system of pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def is_uri(place: str | Path) -> bool:
    """Whether a place is named by a URI such as ``s3://bucket/folder``, and not by a path of this machine."""
    return "://" in str(place)


def open_place(place: str | Path) -> tuple[FileSystem, str]:
    """The file system of a file or folder, and its path there.

    Args:
        place: A path of this machine, or a URI.

    Raises:
        ValueError, OSError, ImportError: pyarrow's, if no file system opens it.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem

    if is_uri(place):
        filesystem, path = FileSystem.from_uri(str(place))
        return filesystem, path
    return LocalFileSystem(), str(Path(place).absolute())
