"""Weights that are regions of files, as transformers opens safetensors: named instead of copied.

A model that was opened from files holds views of privately mapped memory, which costs nothing until a page is
read, and changes the page's copy, not the file, when it is written. Another process that maps the same file
has the same values. Linux only: on other systems, and for tensors that were changed or converted, no region
is found, and the values themselves have to be sent.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor

from ray_st.util.atomic import replacing
from ray_st.util.filesystems import download

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_MAPS = Path("/proc/self/maps")
_PAGES = Path("/proc/self/pagemap")
_OF_FILE = np.uint64(1 << 61)
"""Bit of an entry of the page map: the page belongs to a file, so it was not written."""
_IN_USE = np.uint64(3 << 62)
"""Bits of an entry: the page is in memory or swapped out. All others are as in the file."""
_SAMPLE = 512
"""Bytes of each tensor that a file's digest covers."""
_PIECES = 64
"""Samples of a file that does not say where its tensors are."""
_EXPORTED = (".onnx", ".onnx_data", ".onnx.data", ".xml", ".bin")
"""Ends of the names of exported models' files. In the Hub's cache files have other names."""


class UnreachableWeights(ValueError):
    """A node cannot open the files that hold a model's weights, or they have changed."""


@dataclass(frozen=True)
class HubFile:
    """A file of a model on the Hub.

    Args:
        repo: The model's name.
        commit: The commit.
        name: The file's path in the repository.
    """

    repo: str
    commit: str
    name: str

    def fetch(self, digest: str) -> str:
        """The path of a local copy, in the Hub's cache. One process of a node downloads; the others wait.

        Raises:
            UnreachableWeights: If the Hub, or its cache when offline, has no such file.
        """
        try:
            return hf_hub_download(
                self.repo,
                self.name,
                revision=self.commit,
                cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
            )
        except (OSError, HfHubHTTPError) as error:
            offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
            raise UnreachableWeights(
                f"{self.name} of {self.repo} cannot be fetched from the Hub{offline}: {error} "
                "A private model needs HF_TOKEN on every node; without a network, fill each node's cache "
                "first, or put the model's folder where every node sees it."
            ) from error


@dataclass(frozen=True)
class StoredFile:
    """A file in an object store, of which a process had a local copy.

    Args:
        filesystem: Its file system.
        path: Its path there.
        scratch_dir: Folder for a local copy; None for the system's temporary folder.
    """

    filesystem: FileSystem
    path: str
    scratch_dir: str | None = None

    def fetch(self, digest: str) -> str:
        """The path of a local copy. One process of a node downloads; the others wait.

        Args:
            digest: Names the copy.
        """
        folder = Path(self.scratch_dir or tempfile.gettempdir(), f"ray_st-weights-{os.getuid()}")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = folder / f"{digest}.safetensors"
        with FileLock(f"{copy}.lock"):
            if not copy.exists():
                with replacing(copy) as part:
                    download(self.filesystem, self.path, part)
        return str(copy)


_copies: dict[str, StoredFile] = {}
"""What this process downloaded from object stores, by the copy's path."""


def remember(copy: Path, stored: StoredFile) -> None:
    """Notes that a local file is a copy of one in an object store, from which other nodes can fetch it."""
    _copies[str(copy)] = stored


@dataclass(frozen=True)
class TensorFile:
    """A file of weights: safetensors, or that of an exported model.

    Args:
        path: Its path where it was first opened.
        size: Its bytes.
        digest: A hash of its header and of a part of each tensor, or of many parts of it.
        origin: Where it came from, if it is a copy.
    """

    path: str
    size: int
    digest: str
    origin: HubFile | StoredFile | None = field(default=None, compare=False)

    @classmethod
    def at(cls, path: str) -> TensorFile:
        """Describes a file of this machine."""
        status = os.stat(path)
        digest = _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)
        return cls(path, status.st_size, digest, _copies.get(path) or _hub_file(path))

    def map(self) -> torch.UntypedStorage:
        """The file's bytes, mapped privately: what is written stays in this process.

        Raises:
            UnreachableWeights: If this machine does not have the file, or has another one in its place.
        """
        path = self._find()
        try:
            status = os.stat(path)
            found = _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)
        except OSError as error:
            raise UnreachableWeights(
                f"node {socket.gethostname()} cannot read {path}, which holds weights of the model ({error})."
            ) from error
        if found != self.digest:
            raise UnreachableWeights(
                f"{path} on node {socket.gethostname()} is not the file that the driver opened: it was "
                "changed since, or differs between nodes. Open the model again and restart."
            )
        mapped: Any = torch.UntypedStorage.from_file(path, shared=False, nbytes=self.size)
        storage: torch.UntypedStorage = mapped
        return storage

    def _find(self) -> str:
        if os.path.exists(self.path):
            return self.path
        where = f"node {socket.gethostname()} cannot open {self.path}, which holds weights of the model"
        if self.origin is None:
            raise UnreachableWeights(
                f"{where}: no such file there. Put the model's folder where every node sees it under the "
                "same path, or give the model's name on the Hub."
            )
        try:
            return self.origin.fetch(self.digest)
        except (OSError, UnreachableWeights) as error:
            raise UnreachableWeights(f"{where}: {error}") from error


@dataclass(frozen=True)
class Region:
    """A part of a file.

    Args:
        file: The file.
        offset: Its first byte.
    """

    file: TensorFile
    offset: int


class MappedFiles:
    """The files of weights that are mapped into this process at the moment of its creation."""

    def __init__(self) -> None:
        self._mappings = _mappings() if _MAPS.exists() and _PAGES.exists() else []

    def region_of(self, tensor: Tensor) -> Region | None:
        """The region of a file that a tensor's storage begins in, at the tensor's first element.

        None if the tensor is elsewhere, or any page of it was written, or its file was deleted.

        Args:
            tensor: Any tensor.
        """
        if tensor.device.type != "cpu" or not tensor.numel():
            return None
        first, last = _extent(tensor)
        for mapping in self._mappings:
            if mapping.start <= first and last <= mapping.end:
                if _was_written(first, last):
                    return None
                offset = mapping.offset + first - mapping.start
                if offset % tensor.element_size():
                    return None
                return Region(TensorFile.at(mapping.path), offset)
        return None


@dataclass(frozen=True)
class _Mapping:
    start: int
    end: int
    offset: int
    path: str


def _mappings() -> list[_Mapping]:
    found = []
    for line in _MAPS.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        path = fields[5] if len(fields) == 6 else ""
        # A deleted file has " (deleted)" after its name.
        if (path.endswith((".safetensors", *_EXPORTED)) or _in_hub_cache(path)) and os.path.exists(path):
            start, _, end = fields[0].partition("-")
            found.append(_Mapping(int(start, 16), int(end, 16), int(fields[2], 16), path))
    return found


def _in_hub_cache(path: str) -> bool:
    """Whether a file lies in the Hub's cache, where files are named by their hashes."""
    return Path(path).parent.name == "blobs"


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte, and after its last."""
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()


def _was_written(first: int, last: int) -> bool:
    begin, end = first // mmap.PAGESIZE, -(-last // mmap.PAGESIZE)
    with _PAGES.open("rb") as stream:
        stream.seek(8 * begin)
        pages = np.frombuffer(stream.read(8 * (end - begin)), np.uint64)
    return len(pages) < end - begin or bool(np.any((pages & _IN_USE != 0) & (pages & _OF_FILE == 0)))


@functools.lru_cache(maxsize=256)
def _digest(path: str, size: int, mtime_ns: int, inode: int) -> str:
    """A hash of a file's size and of parts of its content; cached while the file stays as it is."""
    digest = xxhash.xxh3_64(str(size).encode())
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = b"" if path.endswith(_EXPORTED) or length > size else stream.read(length)
        spans = _tensor_spans(header, 8 + length) if header.startswith(b"{") else _even_spans(size)
        for begin, end in spans:
            stream.seek(begin)
            digest.update(stream.read(end - begin))
    return digest.hexdigest()


def _tensor_spans(header: bytes, start: int) -> Iterator[tuple[int, int]]:
    """The header of a safetensors file, and the middle of each tensor."""
    yield 8, start
    for entry in json.loads(header).values():
        if "data_offsets" in entry:
            begin, end = entry["data_offsets"]
            middle = start + max(begin, (begin + end - _SAMPLE) // 2)
            yield middle, min(middle + _SAMPLE, start + end)


def _even_spans(size: int) -> Iterator[tuple[int, int]]:
    """Parts of a file at even distances, its begin and end included."""
    for piece in range(_PIECES):
        begin = max(size - _SAMPLE, 0) * piece // (_PIECES - 1)
        yield begin, min(begin + _SAMPLE, size)


@functools.lru_cache(maxsize=256)
def _hub_file(path: str) -> HubFile | None:
    """The name on the Hub of a file in its cache: ``models--org--name/blobs/HASH``, linked from snapshots."""
    blob = Path(path)
    model = blob.parent.parent
    if not _in_hub_cache(path) or not model.name.startswith("models--"):
        return None
    for link in sorted((model / "snapshots").rglob("*")):
        if link.is_symlink() and link.resolve() == blob:
            commit, *names = link.relative_to(model / "snapshots").parts
            repo = model.name.removeprefix("models--").replace("--", "/")
            return HubFile(repo, commit, "/".join(names))
    return None
