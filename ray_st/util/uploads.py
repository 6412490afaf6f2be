"""Folders that Ray creates for a job's ``working_dir`` and deletes with their content after the last use."""

from __future__ import annotations

from pathlib import Path

from ray_st.util.filesystems import is_uri

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
