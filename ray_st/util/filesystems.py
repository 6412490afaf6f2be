"""Resolves a path or a URI to a pyarrow file system."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def is_uri(place: str | Path) -> bool:
    """Whether a location is a URI such as ``s3://bucket/folder`` rather than a local path."""
    return "://" in str(place)


def open_location(place: str | Path) -> tuple[FileSystem, str]:
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


def download(filesystem: FileSystem, path: str, target: Path) -> None:
    """Copies a file, or a folder with all in it, from a file system to this machine.

    Args:
        filesystem: The file system.
        path: The file's or folder's path there.
        target: Its new path.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(path, str(target), source_filesystem=filesystem, destination_filesystem=LocalFileSystem())


def upload(source: Path, filesystem: FileSystem, path: str) -> None:
    """Copies a file, or a folder with all in it, from this machine to a file system.

    Args:
        source: The file or folder.
        filesystem: The file system.
        path: Its new path there.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(
        str(source.absolute()), path, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem
    )


def scratch_folder(within: str | None = None) -> TemporaryDirectory[str]:
    """A new temporary folder, deleted with the object.

    Args:
        within: The folder in which it is made, created if missing; None for the system's temporary folder.
    """
    if within is not None:
        Path(within).mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(prefix="ray_st-", dir=within, ignore_cleanup_errors=True)


_PLACE = ("runtime_resources", "working_dir_files")  # in the session's folder, on each node


def upload_of(path: str | Path) -> Path | None:
    """The upload folder, created by Ray, that contains a path; None if there is none.

    Args:
        path: A local path, or a URI, which is never in one.
    """
    if is_uri(path):
        return None
    parts = Path(path).expanduser().absolute().parts
    for place in range(len(parts) - 2):
        if parts[place : place + 2] == _PLACE:
            return Path(*parts[: place + 3])
    return None


def check_kept(path: str | Path, name: str, remedy: str = "Give an absolute path that lasts") -> None:
    """Rejects an output folder or file that Ray would delete.

    Args:
        path: Its path.
        name: Name in the error message.
        remedy: What to do instead.

    Raises:
        ValueError: If it lies in an upload folder.
    """
    upload = upload_of(path)
    if upload is not None:
        raise ValueError(
            f"{name} {str(path)!r} lies in {upload}, the folder that Ray made of the job's working_dir: Ray "
            f"deletes it some time after the job, and the next job gets another one. {remedy}."
        )
