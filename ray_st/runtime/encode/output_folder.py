"""The output folder of a job: existing parts are complete, and the manifest is written last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from ray_st.runtime.encode.job import differences
from ray_st.runtime.encode.work_plan import WorkPiece
from ray_st.util.atomic import is_unfinished, replacing_in
from ray_st.util.filesystems import is_uri, open_location

JOB = "_job.json"
"""Describes the folder's job; written before the first part."""

MANIFEST = "_manifest.json"
"""Lists the parts of the complete output; written after the last one."""

_READERS = 16


class OutputError(ValueError):
    """The folder cannot be used for a job's output."""


@dataclass(frozen=True)
class OutputFolder:
    """A folder on any pyarrow file system. Picklable.

    Args:
        path: The folder's path on its file system.
        filesystem: The file system.
    """

    path: str
    filesystem: FileSystem

    @classmethod
    def at(cls, location: str | Path) -> OutputFolder:
        """The folder that a path or a URI such as ``s3://bucket/vectors`` names.

        Raises:
            OutputError: If no file system can open it.
        """
        try:
            filesystem, path = open_location(location if is_uri(location) else Path(location).expanduser())
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            raise OutputError(f"{location}: no file system opens it: {error}") from error
        return cls(path.rstrip("/"), filesystem)

    @property
    def local(self) -> bool:
        """Whether the folder is on this machine's disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    def begin(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Prepares the folder for a job.

        Args:
            facts: What the job's output depends on.

        Returns:
            The facts that :meth:`keep` wrote when the same job started; None if it is new.

        Raises:
            OutputError: If the folder cannot be written, or holds something else: another job's output, or
                other files.
        """
        try:
            self.filesystem.create_dir(self.path, recursive=True)
            job = self._read(JOB)
            self._sweep()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}") from error
        others = [name for name in self._names() if not name.startswith((".", "_"))]
        if job is None and others:
            raise OutputError(
                f"{self.path} holds other files ({sorted(others)[0]}); choose an empty or new folder."
            )
        if job is not None and (found := differences(job, facts)):
            raise OutputError(
                f"{self.path} holds the output of another job: {'; '.join(found)}. Choose another folder, or "
                "delete it."
            )
        return job

    def keep(self, job: Mapping[str, Any]) -> None:
        """Records what the job is."""
        self._write(JOB, job)

    def done(self, pieces: Sequence[WorkPiece]) -> set[str]:
        """Names of the pieces whose files exist with all their rows."""
        names = set(self._names())
        there = [piece for piece in pieces if piece.name in names]
        with ThreadPoolExecutor(_READERS) as readers:
            rows = list(readers.map(lambda piece: self._rows(piece.name), there))
        return {piece.name for piece, found in zip(there, rows, strict=True) if found == piece.rows}

    def writing(self, name: str) -> AbstractContextManager[pa.NativeFile]:
        """A stream whose content atomically becomes the named file if the block succeeds."""
        return replacing_in(self.filesystem, f"{self.path}/{name}")

    def finish(self, job: Mapping[str, Any], pieces: Sequence[WorkPiece]) -> None:
        """Removes leftovers of killed workers and writes the manifest, which completes the output.

        Raises:
            OutputError: If a part is missing or was changed.
        """
        missing = {piece.name for piece in pieces} - self.done(pieces)
        if missing:
            raise OutputError(f"{self.path}/{min(missing)} is missing or has other rows than were written.")
        parts = [
            {"file": piece.name, "rows": piece.rows, "source": piece.part.name, "first_row": piece.part.start}
            for piece in pieces
        ]
        self._sweep()
        self._write(MANIFEST, {**job, "files": parts})

    def _sweep(self) -> None:
        for name in self._names():
            if is_unfinished(name):
                self.filesystem.delete_file(f"{self.path}/{name}")

    def _names(self) -> list[str]:
        infos = self.filesystem.get_file_info(FileSelector(self.path))
        return [info.base_name for info in infos if info.type == FileType.File]

    def _rows(self, name: str) -> int | None:
        try:
            with self.filesystem.open_input_file(f"{self.path}/{name}") as handle:
                return int(pq.read_metadata(handle).num_rows)
        except pa.ArrowInvalid:
            return None

    def _read(self, name: str) -> dict[str, Any] | None:
        path = f"{self.path}/{name}"
        if self.filesystem.get_file_info(path).type != FileType.File:
            return None
        with self.filesystem.open_input_stream(path) as stream:
            text = stream.read()
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise OutputError(f"{path} is damaged ({error}); choose another folder.") from error

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        with self.writing(name) as stream:
            stream.write(json.dumps(values, indent=1).encode())
