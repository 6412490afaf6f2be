"""What config.json asks for beside what the folder holds: refused before memory is taken for weights that are not there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, PreTrainedConfig

from ray_st.models.files import WEIGHTS, ModelFolderError

_HALVES = ("encoder", "decoder", "num_encoder", "num_decoder")
_LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", *(f"{half}_layers" for half in _HALVES)}
_LAYERS_A_TENSOR = 4  # ALBERT's layers share their weights
_WEIGHTS_A_NUMBER = 16  # packed weights hold several
_SMALL = 2**26  # weights that may be there or not: a pooler, a table of positions
_LARGE = 1024  # a dimension that is worth a look


@dataclass(frozen=True)
class Held:
    """The weights in a folder.

    Args:
        tensors: How many tensors there are.
        numbers: How many numbers they have.
        dimensions: The tensors' dimensions.
    """

    tensors: int
    numbers: int
    dimensions: frozenset[int]

    @classmethod
    def read(cls, folder: Path) -> Held:
        """Reads the headers of a folder's safetensors.

        Raises:
            ModelFolderError: If a file is damaged.
        """
        shapes: list[list[int]] = []
        whole = folder / WEIGHTS
        for file in [whole] if whole.is_file() else sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, "pt") as opened:
                    shapes += [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
            except SafetensorError as error:
                raise ModelFolderError(f"{file} is damaged: {error}.") from error
        return cls(
            len(shapes), sum(map(math.prod, shapes)), frozenset(size for shape in shapes for size in shape)
        )


def check_layers(folder: Path, saved: Mapping[str, Any], held: Held) -> None:
    """Refuses a config.json with far more layers than there are tensors: making them takes as long as there are many.

    Raises:
        ModelFolderError: If it has.
    """
    for name, value in _numbers(saved):
        if name in _LAYERS and value > _LAYERS_A_TENSOR * held.tensors + _LAYERS_A_TENSOR:
            raise ModelFolderError(
                f"{folder / 'config.json'} says {name}={value:.15g}, but the folder's weights are {held.tensors} tensors, "
                "too few for so many layers. Correct the number, or fetch the folder anew."
            )


def check_weights_asked(folder: Path, saved: Mapping[str, Any], config: PreTrainedConfig, held: Held) -> None:
    """Refuses a configuration that asks for far more weights than the folder holds.

    Raises:
        ModelFolderError: If it does.
    """
    if not any(value >= _LARGE and value not in held.dimensions for _, value in _numbers(saved)):
        return
    family: Any = AutoModel._model_mapping.get(type(config), None)
    if not isinstance(family, type):
        return
    with torch.device("meta"):
        asked = sum(weight.numel() for weight in family(config).parameters())
    if asked > _WEIGHTS_A_NUMBER * held.numbers + _SMALL:
        raise ModelFolderError(
            f"{folder / 'config.json'} asks for {asked} weights, but the folder holds {held.numbers}. Correct its sizes, "
            "or fetch the folder anew."
        )


def _numbers(saved: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in saved.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
