"""The files of exported models: where they lie in a model's folder, and what they consist of."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
import xxhash
from torch import Tensor

from ray_st.models.exported.backend_options import BackendOptions
from ray_st.models.folder_files import ModelFolderError
from ray_st.util.atomic import replacing

logger = logging.getLogger(__name__)

DEFAULT_NAMES: Mapping[str, str] = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""Name of the file of each backend that nothing was done to."""


def name_with(suffix: str, backend: str) -> str:
    """Name of a file to which something was done: the usual one with a suffix."""
    stem, _, end = DEFAULT_NAMES[backend].rpartition(".")
    return f"{stem}_{suffix}.{end}"


_ENDS = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class BackendFile:
    """An exported model.

    Args:
        backend: "onnx" or "openvino".
        contents: The bytes of its files by name, the one to open first; others hold its weights. They are
            tensors, as other processes get those without a copy.
    """

    backend: str
    contents: Mapping[str, Tensor]

    @classmethod
    def read(cls, backend: str, path: Path) -> BackendFile:
        """Maps a file, and those beside it that hold its weights, into memory.

        Args:
            backend: "onnx" or "openvino".
            path: The file to open.
        """
        return cls(backend, {file.name: _mapped(file) for file in (path, *_weight_files(backend, path))})

    @property
    def name(self) -> str:
        """Name of the file to open."""
        return next(iter(self.contents))

    @property
    def main(self) -> Tensor:
        """Its bytes."""
        return self.contents[self.name]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The bytes of the files beside it."""
        return {name: value for name, value in self.contents.items() if name != self.name}

    def changed(self, change: Callable[[Path, Path], object]) -> BackendFile:
        """What a function makes of the file.

        Args:
            change: Called with the path of the file and the one to write to, which has the usual name.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder))
            target = Path(folder) / DEFAULT_NAMES[self.backend]
            change(Path(folder) / self.backend / self.name, target)
            return self.read(self.backend, target).copied()

    def copied(self) -> BackendFile:
        """The same bytes, in memory."""
        return BackendFile(self.backend, {name: value.clone() for name, value in self.contents.items()})

    def digest(self) -> str:
        """A hash of all bytes."""
        digest = xxhash.xxh3_64()
        for value in self.contents.values():
            digest.update(value.numpy().data)
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Writes the files into the backend's folder within a model's, as :meth:`read` finds them."""
        place = folder / self.backend
        place.mkdir(parents=True, exist_ok=True)
        for name, value in self.contents.items():
            with replacing(place / name) as part:  # the file that is mapped may be this one
                value.numpy().tofile(part)


def _mapped(file: Path) -> Tensor:
    size = file.stat().st_size
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)


def _weight_files(backend: str, path: Path) -> list[Path]:
    """The files that hold a model's weights."""
    if backend == "openvino":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ModelFolderError(f"{path} has no {weights.name} beside it, which holds its weights.")
        return [weights]
    beside = (path.with_name(f"{path.name}{end}") for end in ("_data", ".data"))
    return [file for file in beside if file.is_file()]


def find_file(folder: Path, options: BackendOptions, has_weights: bool) -> Path | None:
    """The exported file to open; None if the model is to be exported now.

    It is ``file_name`` in the folder (or its ``subfolder``), or in the folder for the backend within. Without
    a name it is the usual one, or the only one of a folder without weights for torch.

    Args:
        folder: The model's folder.
        options: What the user asks for.
        has_weights: Whether the folder has weights for torch, from which the model can be exported.

    Raises:
        ModelFolderError: If there is no such file, and it must not or cannot be exported.
    """
    if options.export:
        return None
    place = folder / options.subfolder if options.subfolder else folder
    name = options.file_name or DEFAULT_NAMES[options.backend]
    _check_name(name, options.backend)
    for path in (place / name, place / options.backend / name):
        if path.is_file():
            if not options.file_name:
                _say_which(path.relative_to(place).as_posix(), place, _listed(place, options.backend))
            return path
    listed = _listed(place, options.backend)
    if options.file_name is None and len(listed) == 1 and not has_weights:
        return place / listed[0]
    if options.file_name is not None or options.export is False or not has_weights:
        raise ModelFolderError(_not_there(place, name, listed, has_weights))
    others = (
        f" (there are {', '.join(listed)}: choose with model_kwargs={{'file_name': …}})" if listed else ""
    )
    logger.warning(
        "%s has no %s%s: exporting the model now, and every time until it is saved.", place, name, others
    )
    return None


def _say_which(name: str, place: Path, listed: Sequence[str]) -> None:
    if len(listed) > 1:
        logger.warning(
            "%s has the files %s: using %s. Choose with model_kwargs={'file_name': …}.",
            place,
            ", ".join(listed),
            name,
        )


def _check_name(name: str, backend: str) -> None:
    path, end = PurePosixPath(name), _ENDS[backend]
    if path.is_absolute() or ".." in path.parts or path.suffix != end:
        raise ModelFolderError(
            f"file_name must be a file {end!r} within the model's folder for backend={backend!r}; got "
            f"{name!r}."
        )


def _listed(place: Path, backend: str) -> list[str]:
    """The files of a backend in a folder and those within."""
    return sorted(path.relative_to(place).as_posix() for path in place.rglob(f"*{_ENDS[backend]}"))


def _not_there(place: Path, name: str, listed: Sequence[str], has_weights: bool) -> str:
    known = ", ".join(listed) or "none"
    cure = (
        "Leave file_name out to export it now" if has_weights else "There are no weights for torch to export"
    )
    return f"{place} has no exported file {name!r}; there are: {known}. {cure}."
