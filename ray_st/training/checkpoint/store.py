"""Verifiable checkpoints: a complete one has a manifest with each file's size and hash.

The manifest is written last.

The manifest also contains its own hash, because its other contents (run, step, data and model) determine how
a run resumes.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.fs as pafs
import xxhash

from ray_st.models.mapped_weights import StoredFile, remember
from ray_st.training.checkpoint.lease import Fence
from ray_st.util.atomic import replacing
from ray_st.util.filesystems import download, open_location, scratch_folder, upload

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
FORMAT = 2
"""Format version of manifests. Manifests of format 1 have no hash of their own."""

SUM = "xxh3"
"""Key, in a manifest, of the hash of its other contents."""

STATES = ("optimizer.pt", "scheduler.pt", "rng_state_0.pth")
"""Without these files a run cannot resume as if it had not been interrupted. Other ranks' random states may
be missing, since a run may resume with more workers."""

_OF_SHARDS = {"optimizer.pt": "optimizer.json"}  # what a sharded run writes in place of a file
_PART = ".rank-"
"""Prefix of each rank's folder within a checkpoint that is being written to a folder that all ranks share."""

_FETCHED = "fetched"
_CHUNK = 1 << 20

Files = dict[str, dict[str, Any]]
"""Size and hash of each file of a checkpoint, by its path within the checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint is incomplete, damaged or missing."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint.

    Args:
        name: Folder name, ``checkpoint-STEP``.
        step: Its global step.
        manifest: Its manifest.
    """

    name: str
    step: int
    manifest: dict[str, Any]

    @property
    def lacks(self) -> list[str]:
        """The files of :data:`STATES` that are missing from it."""
        files = self.manifest["files"]
        return [file for file in STATES if file not in files and _OF_SHARDS.get(file) not in files]


@dataclass(frozen=True)
class Settled:
    """The outcome of writing a checkpoint.

    Args:
        step: Its step.
        metrics: The newest metrics at that step.
        checkpoint: The complete checkpoint; None if it could not be written.
        seconds: How long writing took.
    """

    step: int
    metrics: Mapping[str, Any]
    checkpoint: SavedCheckpoint | None
    seconds: float


@dataclass
class CheckpointStore:
    """A run's folder, on a local disk or in an object store, with one folder per checkpoint.

    Checkpoints are written to a local folder first. If the run's folder is local, this is the final location;
    otherwise its files are uploaded, and it is deleted.

    Args:
        path: The run's path on its file system.
        filesystem: The file system; local by default.
        run_id: Name of this run, written to manifests, so that a restart never uses another run's
            checkpoints.
        fence: The right to write here, checked before anything is begun, sealed or deleted; None if there can
            be no other writer.
        scratch_dir: Folder on each machine for local copies of what is in an object store; None for the
            system's temporary folder.
    """

    path: str
    filesystem: pafs.FileSystem = field(default_factory=pafs.LocalFileSystem)
    run_id: str = ""
    fence: Fence | None = None
    scratch_dir: str | None = None

    def __post_init__(self) -> None:
        self._scratch: TemporaryDirectory[str] | None = None
        self._fetched: dict[str, dict[str, Any]] = {}  # manifests of local copies
        self._sealed: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The state without this process's local copies."""
        return {**self.__dict__, "_scratch": None, "_fetched": {}}

    @property
    def is_local(self) -> bool:
        """Whether the run's folder is on a local (or mounted) disk."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def local(self) -> Path:
        """The local folder in which checkpoints are written."""
        if self.is_local:
            return Path(self.path)
        if self._scratch is None:
            self._scratch = scratch_folder(self.scratch_dir)
            weakref.finalize(self, self._scratch.cleanup)
        return Path(self._scratch.name)

    def location(self, name: str) -> str:
        """A checkpoint's path on its file system."""
        return f"{self.path.rstrip('/')}/{name}"

    def check_fence(self) -> None:
        """Checks that this run still holds its folder.

        Raises:
            LeaseLost: If another driver has taken it.
        """
        if self.fence is not None:
            self.fence.check()

    def begin(self, step: int) -> Path:
        """An empty local folder for the checkpoint of a step; an earlier checkpoint of this step is deleted.

        Raises:
            LeaseLost: If another driver has taken the run's folder.
        """
        self.check_fence()
        if step in self.steps():
            self.delete(step)
        folder = self.local / f"{PREFIX}{step}"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def part(self, step: int, rank: int) -> Path:
        """A local folder for a rank's files of a checkpoint, which the first rank has begun."""
        folder = self.local / f"{PREFIX}{step}"
        if self.is_local:  # all ranks have the same folder
            folder /= f"{_PART}{rank}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add(self, part: Path) -> Files:
        """Hashes files of a checkpoint and puts them where the checkpoint is.

        Args:
            part: What :meth:`begin` or :meth:`part` returned, with files in it.

        Returns:
            The files, for the manifest.

        Raises:
            LeaseLost: If another driver has taken the run's folder.
        """
        local = pafs.LocalFileSystem()
        files = {
            str(file.relative_to(part)): {"size": file.stat().st_size, "xxh3": _digest(local, str(file))}
            for file in sorted(part.rglob("*"))
            if file.is_file() and file.name != MANIFEST
        }
        if not self.is_local:
            self.check_fence()
            self.filesystem.create_dir(self.location(part.name), recursive=True)
            upload(part, self.filesystem, self.location(part.name))
            shutil.rmtree(part)
        elif part.name.startswith(_PART):
            for name in files:
                (part.parent / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).rename(part.parent / name)
            shutil.rmtree(part)
        return files

    def seal(self, folder: Path, **facts: Any) -> SavedCheckpoint:
        """Declares a checkpoint complete whose files are all in one folder.

        Args:
            folder: What :meth:`begin` returned, with all files in it.
            facts: As for :meth:`declare`.
        """
        return self.declare(int(folder.name.removeprefix(PREFIX)), self.add(folder), **facts)

    def declare(self, step: int, files: Files, **facts: Any) -> SavedCheckpoint:
        """Declares a checkpoint complete by writing its manifest, after everything else.

        Args:
            step: Its step.
            files: The files of all ranks.
            facts: Further contents of the manifest (cursor, seed, fingerprint of the plan).

        Raises:
            LeaseLost: If another driver has taken the run's folder: the checkpoint stays incomplete.
        """
        return self._declare({"run_id": self.run_id, "step": step, **facts, "files": files})

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, complete or not, ascending."""
        return self.numbered(PREFIX)

    def numbered(self, prefix: str) -> list[int]:
        """The numbers, ascending, of the run's folders that are named ``prefix`` and a number."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        names = (info.base_name for info in self.filesystem.get_file_info(selector) if not info.is_file)
        numbers = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def check(self, name: str, resumable: bool = False, hashes: bool = True) -> SavedCheckpoint:
        """Reads a checkpoint's manifest and compares it with the files.

        Args:
            name: The checkpoint's folder.
            resumable: Whether it must contain all of :data:`STATES`.
            hashes: Whether to compare hashes, which reads all files, besides sizes.

        Raises:
            CheckpointError: If the checkpoint is missing, has no manifest, or a file differs; names the file.
        """
        root = self.location(name)
        if not self.filesystem.get_file_info(f"{root}/{MANIFEST}").is_file:
            raise CheckpointError(
                f"{root} is not a complete checkpoint: it has no {MANIFEST}, which is written last. "
                "Choose an earlier checkpoint."
            )
        manifest = self._read_manifest(f"{root}/{MANIFEST}")
        found = SavedCheckpoint(name, int(manifest["step"]), manifest)
        if resumable and found.lacks:
            raise CheckpointError(
                f"{root} cannot be resumed from: it holds no {', '.join(found.lacks)} (save_only_model=True "
                "writes none), so the optimizer and the learning rate would start anew. Choose another "
                "checkpoint, or set resume_only_model=True to begin a new run, at step 0, with its weights."
            )
        for file, expected in manifest["files"].items():
            self._check_size(f"{root}/{file}", expected)
            if hashes:
                _check_hash(f"{root}/{file}", expected, self.filesystem, f"{root}/{file}")
        return found

    def _read_manifest(self, path: str) -> dict[str, Any]:
        with self.filesystem.open_input_stream(path) as stream:
            text = stream.read()
        try:
            manifest = json.loads(text)
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged ({error}). Choose an earlier checkpoint.") from error
        if not _is_manifest(manifest):
            raise CheckpointError(f"{path} is no manifest of a checkpoint. Choose an earlier checkpoint.")
        if manifest.get("format") != 1 and manifest.pop(SUM, None) != _sum(manifest):
            raise CheckpointError(
                f"{path} is damaged: its hash is not that of what it says. Choose an earlier checkpoint."
            )
        return manifest

    def _check_size(self, path: str, expected: dict[str, Any]) -> None:
        info = self.filesystem.get_file_info(path)
        if not info.is_file or info.size != expected["size"]:
            found = f"{info.size} bytes" if info.is_file else "no such file"
            raise CheckpointError(
                f"{path} is damaged: expected {expected['size']} bytes, found {found}. Choose an earlier "
                "checkpoint."
            )

    def newest(
        self,
        run_id: str | None = None,
        skipped: list[str] | None = None,
        resumable: bool = False,
        hashes: bool = True,
    ) -> SavedCheckpoint | None:
        """The newest complete checkpoint; incomplete and damaged ones are skipped.

        Args:
            run_id: Only checkpoints of this run.
            skipped: Receives the reasons why checkpoints were skipped.
            resumable: Only checkpoints that contain all of :data:`STATES`.
            hashes: As for :meth:`check`.
        """
        return next(self.complete(run_id, skipped, resumable, hashes), None)

    def complete(
        self,
        run_id: str | None = None,
        skipped: list[str] | None = None,
        resumable: bool = False,
        hashes: bool = True,
    ) -> Iterator[SavedCheckpoint]:
        """The complete checkpoints, newest first.

        Args:
            run_id: As for :meth:`newest`.
            skipped: As for :meth:`newest`.
            resumable: As for :meth:`newest`.
            hashes: As for :meth:`check`.
        """
        for step in reversed(self.steps()):
            try:
                found = self.check(f"{PREFIX}{step}", resumable, hashes)
            except CheckpointError as error:
                if skipped is not None:
                    skipped.append(str(error))
                continue
            if run_id is None or found.manifest["run_id"] == run_id:
                yield found

    def fetch(self, name: str, verifies: bool = True) -> Path:
        """A local folder with a checkpoint's files.

        Args:
            name: The checkpoint's folder.
            verifies: Whether to compare sizes and hashes, of local copies if there are any; a model folder
                has no manifest to compare with.

        Raises:
            CheckpointError: If the checkpoint is missing, incomplete or damaged.
        """
        manifest = self.check(name, hashes=self.is_local).manifest if verifies else {"files": {}}
        if self.is_local:
            return Path(self.location(name))
        root, folder = self.location(name), self.local / _FETCHED / name
        if self._fetched.get(name) != manifest:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            here = pafs.LocalFileSystem()
            download(self.filesystem, root, folder)
            for file, expected in manifest["files"].items():
                _check_hash(str(folder / file), expected, here, f"{root}/{file}")
            self._fetched[name] = manifest
        return folder

    def drop(self, name: str) -> None:
        """Deletes the local copy of a checkpoint in an object store."""
        if not self.is_local:
            self._fetched.pop(name, None)
            shutil.rmtree(self.local / _FETCHED / name, ignore_errors=True)

    def adopt(self, other: CheckpointStore, step: int) -> SavedCheckpoint:
        """Copies a checkpoint of another run here, as this run's only one.

        Args:
            other: The other run's folder, on the same file system.
            step: The checkpoint's step.

        Raises:
            CheckpointError: If it is missing, incomplete or damaged.
        """
        found = other.check(f"{PREFIX}{step}")
        self.check_fence()
        for mine in self.steps():
            self.delete(mine)
        target = self.location(found.name)
        self.filesystem.create_dir(target, recursive=True)
        for file in found.manifest["files"]:
            self.filesystem.create_dir(f"{target}/{file}".rpartition("/")[0], recursive=True)
            self.filesystem.copy_file(f"{other.location(found.name)}/{file}", f"{target}/{file}")
        return self._declare(
            {**found.manifest, "run_id": self.run_id, "copied_from": found.manifest["run_id"]}
        )

    def _declare(self, manifest: dict[str, Any]) -> SavedCheckpoint:
        """Writes a checkpoint's manifest, after everything else; this makes the checkpoint complete."""
        name = f"{PREFIX}{manifest['step']}"
        manifest = json.loads(json.dumps({"format": FORMAT, **manifest}))  # as it will be read
        text = json.dumps({**manifest, SUM: _sum(manifest)}, indent=1).encode()
        self.check_fence()
        with self.filesystem.open_output_stream(f"{self.location(name)}/{MANIFEST}") as stream:
            stream.write(text)
        self._sealed = manifest["step"]
        return SavedCheckpoint(name, manifest["step"], manifest)

    def rotate(self, keep: int | None, best: int | None, in_use: Collection[int] = ()) -> list[int]:
        """Deletes the oldest checkpoints.

        Args:
            keep: How many to keep, or None for all. The newest is always kept: the one that was sealed last,
                or the last complete one. Incomplete ones go first.
            best: Step of the best checkpoint, which is kept and counts, except that with ``keep=1`` both it
                and the newest stay.
            in_use: Steps of checkpoints that are still needed; they are kept, and count towards ``keep``.

        Returns:
            The steps that were deleted.
        """
        steps = self.steps()
        if keep is None or keep < 1 or len(steps) <= keep:
            return []
        complete = [step for step in steps if self.has_manifest(step)]
        newest = self._sealed if self._sealed in complete else max(complete, default=steps[-1])
        protected = {newest} | ({best} if best in steps else set()) | (set(in_use) & set(steps))
        spare = [step for step in (*sorted(set(steps) - set(complete)), *complete) if step not in protected]
        surplus = len(steps) - max(keep, len(protected))
        for step in spare[:surplus]:
            self.delete(step)
        return spare[:surplus]

    def delete(self, step: int) -> None:
        """Deletes a checkpoint, its manifest first, so that a partly deleted one never looks complete.

        Raises:
            LeaseLost: If another driver has taken the run's folder.
        """
        self.check_fence()
        root = self.location(f"{PREFIX}{step}")
        if self.has_manifest(step):
            self.filesystem.delete_file(f"{root}/{MANIFEST}")
        self.filesystem.delete_dir(root)

    def give_up(self, step: int, rank: int = 0) -> None:
        """Deletes the remains of a checkpoint that could not be written.

        If storage is unavailable this does nothing: the remains have no manifest and are skipped.

        Args:
            step: The checkpoint's step.
            rank: The calling rank; the first one deletes what is in storage.
        """
        if not self.is_local:
            shutil.rmtree(self.local / f"{PREFIX}{step}", ignore_errors=True)
        if rank:
            return
        with suppress(OSError):
            if step in self.steps() and not self.has_manifest(step):
                self.delete(step)

    def put_file(self, name: str, write: Callable[[Path], None]) -> None:
        """Writes a file into the run's folder, which appears there complete or not at all.

        Args:
            name: Its name.
            write: Writes a local file.

        Raises:
            LeaseLost: If another driver has taken the run's folder.
        """
        self.check_fence()
        local = self.local / name
        local.parent.mkdir(parents=True, exist_ok=True)
        with replacing(local) as part:
            write(part)
        if not self.is_local:
            self.filesystem.create_dir(self.path, recursive=True)
            upload(local, self.filesystem, self.location(name))
            local.unlink()

    def size_of(self, name: str) -> int:
        """The bytes of a file in the run's folder."""
        return int(self.filesystem.get_file_info(self.location(name)).size)

    def fetch_file(self, name: str) -> Path:
        """A local copy of a file in the run's folder, or the file itself if that is local."""
        local = self.local / name
        if not self.is_local and not local.exists():
            with replacing(local) as part:
                download(self.filesystem, self.location(name), part)
            remember(local, StoredFile(self.filesystem, self.location(name), self.scratch_dir))
        return local

    def delete_files(self, prefix: str, but: str) -> None:
        """Deletes the files in the run's folder whose names begin so, except one."""
        for info in self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True)):
            if info.is_file and info.base_name.startswith(prefix) and info.base_name != but:
                self.filesystem.delete_file(info.path)

    def has_manifest(self, step: int) -> bool:
        """Whether the checkpoint of a step was completed; it may still be damaged."""
        return bool(self.filesystem.get_file_info(f"{self.location(f'{PREFIX}{step}')}/{MANIFEST}").is_file)


def place_of(given: str, scratch_dir: str | None = None) -> tuple[CheckpointStore, str]:
    """The folder around a checkpoint that a user named, and the checkpoint's name in it.

    Args:
        given: A path or URI.
        scratch_dir: As for :class:`CheckpointStore`.
    """
    filesystem, path = open_location(given)
    parent, _, name = path.rstrip("/").rpartition("/")
    return CheckpointStore(parent or "/", filesystem, scratch_dir=scratch_dir), name


def manifest_in(folder: str | None) -> dict[str, Any]:
    """The manifest of the checkpoint in a folder of this machine; empty without one."""
    file = Path(folder or "") / MANIFEST
    return dict(json.loads(file.read_text())) if folder is not None and file.is_file() else {}


def _sum(manifest: dict[str, Any]) -> str:
    """The hash of a manifest, independent of whitespace and key order."""
    return xxhash.xxh3_64(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_manifest(value: object) -> bool:
    match value:
        case {"step": int(), "run_id": str(), "files": dict(files)}:
            return all(map(_is_entry, files.values()))
    return False


def _is_entry(value: object) -> bool:
    match value:
        case {"size": int(), "xxh3": str()}:
            return True
    return False


def _check_hash(path: str, expected: dict[str, Any], filesystem: pafs.FileSystem, origin: str) -> None:
    if _digest(filesystem, path) != expected["xxh3"]:
        raise CheckpointError(
            f"{origin} is damaged: its hash is not the manifest's. Choose an earlier checkpoint."
        )


def _digest(filesystem: pafs.FileSystem, path: str) -> str:
    digest = xxhash.xxh3_64()
    with filesystem.open_input_stream(path, compression=None) as stream:  # "detect" would unpack *.gz
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
