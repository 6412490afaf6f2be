"""The files of a model folder: JSON and safetensors, and errors that name what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_st.util.shards import check_shards

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "pytorch_model.pt")


class ModelFolderError(ValueError):
    """A model folder is incomplete, unsafe, or not of a kind that can be read."""


def read_json(path: Path, default: object = None) -> Any:
    """The value in a JSON file, or ``default`` if there is no such file.

    Raises:
        ModelFolderError: If the file is not valid JSON.
    """
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFolderError(f"{path} is not valid JSON: {error}.") from error


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_weights(folder: Path) -> None:
    """Checks that a folder has weights that can be read without running code.

    Raises:
        ModelFolderError: If there are none, or only pickled ones; the message says how to convert those. Also
            if the index of sharded weights names anything but safetensors of this folder.
    """
    try:
        check_shards(folder)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    if (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return
    pickled = next((name for name in PICKLED if (folder / name).is_file()), None)
    if pickled is None:
        raise ModelFolderError(
            f"{folder} has no weights: expected {WEIGHTS} (or {WEIGHTS_INDEX} and its parts)."
        )
    raise ModelFolderError(
        f"{folder} has its weights only in {pickled}. A pickled file can run code when it is opened, so it "
        f'is not read. If you trust it, write {WEIGHTS} from it once, in that folder: python -c "import '
        "torch, safetensors.torch as s; w = torch.load('pytorch_model.bin', weights_only=True); "
        f"s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{WEIGHTS}', metadata={{'format': "
        "'pt'})\""
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a small module, by name.

    Raises:
        ModelFolderError: If there are none, or only pickled ones.
    """
    check_weights(folder)
    return load_file(folder / WEIGHTS)


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes the tensors of a small module."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / WEIGHTS, {"format": "pt"})


def folder_to_save(path: str | Path, safe_serialization: bool) -> Path:
    """The folder for a model's files, which is created if it does not exist.

    Args:
        path: The folder.
        safe_serialization: Whether the caller asks for safetensors.

    Raises:
        ValueError: If ``safe_serialization`` is False, or the path is a file.
    """
    if not safe_serialization:
        raise ValueError("Only safetensors are written; safe_serialization must be True.")
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"A model is saved into a folder; {folder} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
