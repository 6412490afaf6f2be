"""The folder of an adapter: reading, writing, and finding the base model that it belongs to.

An adapter's folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, the format of the package
peft. It does not contain the base model's weights; the configuration names that model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from ray_st.models.folder_files import WEIGHTS, WEIGHTS_INDEX, ModelFolderError, read_json, write_json
from ray_st.models.model_hub import source_of
from ray_st.util.packages import check_misfits

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Settings that make peft import a module, or unpickle a file, that the configuration names.
_RUNS_CODE = ("megatron_config", "corda_config", "lora_ga_config")


class AdapterConfig(Protocol):
    """What is used of a ``peft.PeftConfig``."""

    base_model_name_or_path: str | None
    revision: str | None
    inference_mode: bool

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""


def load_peft() -> Any:
    """The package peft.

    Raises:
        ImportError: If it is not installed, or incompatible with another installed package; says what to
            install.
    """
    check_misfits("peft")
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ImportError(
            'Adapters need the package peft, which is not installed: pip install "ray-st[peft]".'
        ) from error


@dataclass(frozen=True)
class Adapter:
    """An adapter before it is put into an encoder.

    Args:
        config: A ``peft.PeftConfig``.
        weights: Its tensors, under their names in the file.
        place: Where they come from, for errors.
    """

    config: AdapterConfig
    weights: Mapping[str, Tensor]
    place: str = "the adapter"

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Reads a folder, safetensors only.

        Raises:
            ModelFolderError: If a file is missing, damaged or pickled, or the configuration would run code.
            ImportError: If peft is not installed.
        """
        config = read_adapter_config(folder)
        file = folder / ADAPTER_WEIGHTS
        if not file.is_file():
            raise ModelFolderError(
                f"{folder} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}; adapters in other files, which "
                "can run code when they are opened, are not read."
            )
        try:
            weights = load_file(file)
        except SafetensorError as error:
            raise ModelFolderError(f"{file} is damaged: {error}.") from error
        return cls(config, weights, str(folder))


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The configuration of the adapter in a folder: a ``peft.PeftConfig``.

    Raises:
        ModelFolderError: If there is none, or peft cannot read it, or reading it would run code.
        ImportError: If peft is not installed.
    """
    path = folder / ADAPTER_CONFIG
    saved = read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("peft_type"), str):
        found = "no such file" if saved is None else "no peft_type"
        raise ModelFolderError(f"{path} must be the configuration of an adapter; there is {found}.")
    if unsafe := [name for name in _RUNS_CODE if saved.get(name)]:
        raise ModelFolderError(f"{path} sets {unsafe[0]}, which names code or a pickled file to load.")
    try:
        return load_peft().PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(f"peft cannot read {path}: {error}") from error


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_folder(folder: Path, find: Callable[..., Path]) -> Path:
    """The folder of the base model's weights: the adapter's own, or the one that its configuration names.

    Args:
        folder: A folder with an adapter.
        find: :func:`ray_st.models.model_hub.find_folder`, with the user's options for the Hub.

    Raises:
        ModelFolderError: If no base is named, or it does not exist.
    """
    if _has_weights(folder):
        return folder
    config = read_adapter_config(folder)
    if not config.base_model_name_or_path:
        raise ModelFolderError(
            f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path. Open the model that the adapter "
            f"belongs to, then call load_adapter({str(folder)!r})."
        )
    try:
        base = find(config.base_model_name_or_path, revision=config.revision)
    except ModelFolderError as error:
        raise ModelFolderError(
            f"{folder / ADAPTER_CONFIG} names a base model that does not exist. {error}"
        ) from error
    if is_adapter(base):
        raise ModelFolderError(
            f"{folder / ADAPTER_CONFIG} names the base {base}, which holds an adapter itself."
        )
    return base


def save_adapter(folder: Path, encoder: PreTrainedModel) -> None:
    """Writes the active adapter into an existing folder, with the name of its base model.

    Raises:
        ValueError: If several adapters are active, or the folder holds the weights of a whole model, which
            would be mistaken for the adapter's base.
    """
    if _has_weights(folder):
        raise ValueError(
            f"{folder} holds the weights of a whole model; only the adapter would be saved. Choose another "
            "folder."
        )
    if len(active := encoder.active_adapters()) > 1:
        raise ValueError(f"One adapter is saved at a time; {active} are active. Choose one with set_adapter.")
    encoder.save_pretrained(folder)
    base, revision = _name_of(encoder)
    config = read_json(folder / ADAPTER_CONFIG)
    # peft writes sets in any order; sorted, the file is the same each time.
    lists = {key: sorted(value) for key, value in config.items() if _is_set(value)}
    config |= {**lists, "base_model_name_or_path": base, "revision": revision}
    write_json(folder / ADAPTER_CONFIG, config)


def _name_of(encoder: PreTrainedModel) -> tuple[str | None, str | None]:
    """Name and revision of the encoder's source; a folder has no revision."""
    if not encoder.name_or_path:
        return None, None
    folder = Path(encoder.name_or_path)
    return source_of(folder) or (str(folder.absolute() if folder.is_dir() else folder), None)


def _is_set(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def clear_adapter(folder: Path) -> None:
    """Deletes an adapter's files from a folder into which a whole model is about to be saved."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (folder / name).unlink(missing_ok=True)


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX))
