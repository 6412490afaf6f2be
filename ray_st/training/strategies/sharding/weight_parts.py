"""Who saves which of a sharded model's weights: each rank a part of every encoder, the first one all else.

An encoder's part is a file of its own in the model's folder, ``model-00002-of-00004.safetensors``, in the
format that transformers gives to large models. So a checkpoint is a model folder like any other, and no rank
holds more than its part in host memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from ray_st.models.adapter.peft_layers import adapter_names
from ray_st.models.folder_files import WEIGHTS, WEIGHTS_INDEX
from ray_st.training.strategies.sharding.shard_tensors import whole_tensor
from ray_st.training.strategies.step_module import Step

_FILE = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_AS_ONE = "1000TB"

WeightParts = dict[str, tuple[list[str], int]]
"""The names of the tensors in each file that is a part of an encoder, and their bytes, by the file's path."""


@dataclass(frozen=True)
class Owners:
    """Which rank saves each weight of a step.

    Attributes:
        of: The rank; None for weights that are not saved at all: those below adapters.
        ranks: The ranks that save a part of each encoder, in the order of its layers.
    """

    of: Mapping[nn.Parameter, int | None]
    ranks: Mapping[PreTrainedModel, list[int]]

    @classmethod
    def among(cls, step: Step, ranks: int) -> Owners:
        """The owners of a step's weights.

        Args:
            step: Model and losses.
            ranks: The number of ranks among which encoders are divided; with 1 the first rank owns all.
        """
        owner: dict[nn.Parameter, int | None] = dict.fromkeys(step.parameters(), 0)
        shares: dict[PreTrainedModel, list[int]] = {}
        for encoder in _encoders(step.model):
            if adapter_names(encoder):
                owner.update(dict.fromkeys(_below_adapters(encoder)))
            else:
                mine = _divided(encoder, ranks)
                owner.update(mine)
                shares[encoder] = sorted(set(mine.values()))
        return cls(owner, shares)


def _encoders(model: nn.Module) -> list[PreTrainedModel]:
    """The encoders of a model that are not parts of others."""
    found = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    inner = {id(part) for encoder in found for part in list(encoder.modules())[1:]}
    return [encoder for encoder in found if id(encoder) not in inner]


def _below_adapters(encoder: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Weights that are not saved with adapters; peft may save token embeddings with them."""
    tables = set(encoder.get_input_embeddings().parameters())
    return (weight for weight in encoder.parameters() if not weight.requires_grad and weight not in tables)


def _divided(encoder: PreTrainedModel, ranks: int) -> dict[nn.Parameter, int]:
    """The owner of each weight; the first rank owns the first ones.

    A layer is not divided, because transformers joins some weights of a layer to save them.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for name, weight in encoder.named_parameters():
        layers.setdefault(_layer(name), []).append(weight)
    total, before, owner = (
        sum(weight.numel() for weight in encoder.parameters()),
        0,
        dict[nn.Parameter, int](),
    )
    for weights in layers.values():
        size = sum(weight.numel() for weight in weights)
        owner.update(dict.fromkeys(weights, before * ranks // total))
        before += size
    return owner


def _layer(name: str) -> str:
    """The path of the layer that a weight belongs to, as in ``encoder.layer.3``; else its first part."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


@contextmanager
def saving_parts(owners: Owners, rank: int) -> Iterator[None]:
    """Within this context ``save_pretrained`` of divided encoders, and of their copies, writes a rank's part.

    Args:
        owners: Who saves which weight; those of other ranks are on the device ``meta``.
        rank: This rank.
    """
    divided = [encoder for encoder, ranks in owners.ranks.items() if len(ranks) > 1]
    for encoder in divided:
        save: Any = _SavesPart(rank, owners.ranks[encoder])
        vars(encoder)["save_pretrained"] = MethodType(save, encoder)
    try:
        yield
    finally:
        for encoder in divided:
            del vars(encoder)["save_pretrained"]


@dataclass(frozen=True)
class _SavesPart:
    """``save_pretrained`` of an encoder of which this rank has a part."""

    rank: int
    ranks: Sequence[int]

    def __call__(self, encoder: PreTrainedModel, folder: Any, **options: Any) -> None:
        if self.rank not in self.ranks:
            return
        parameters = dict(encoder.named_parameters(remove_duplicate=False))
        weights = {
            name: tensor
            for name, tensor in encoder.state_dict().items()
            if not tensor.is_meta and (self.rank == 0 or name in parameters)  # all ranks have the buffers
        }
        vars(encoder)["should_save_on_this_rank"] = lambda is_main: is_main  # transformers saves on the first
        type(encoder).save_pretrained(encoder, folder, state_dict=weights, max_shard_size=_AS_ONE, **options)
        name = f"model-{self.ranks.index(self.rank) + 1:05}-of-{len(self.ranks):05}.safetensors"
        Path(folder, WEIGHTS).rename(Path(folder, name))


def own_part(owners: Owners, rank: int, copy: Callable[[Tensor], Tensor]) -> Callable[[nn.Parameter], Tensor]:
    """What a rank puts in the place of each weight of a step, for saving; every rank must call it for each.

    Args:
        owners: Who saves which weight.
        rank: This rank.
        copy: Copies a whole weight to host memory.

    Returns:
        A function from a weight, whole or sharded, to its copy; to an empty tensor if another rank saves it.
    """

    def take(weight: nn.Parameter) -> Tensor:
        owner = owners.of[weight]
        whole = None if owner is None else whole_tensor(weight.detach())
        if owner == rank and whole is not None:
            return copy(whole)
        return torch.empty(weight.shape, dtype=weight.dtype, device="meta")

    return take


# ---- files ----


def parts_in(folder: Path, alone: bool) -> WeightParts:
    """The parts of encoders in a folder.

    Args:
        folder: A model's folder, as this rank has written it.
        alone: Whether this rank has nothing else to save: then all other files are deleted.
    """
    found: WeightParts = {}
    for file in [file for file in sorted(folder.rglob("*")) if file.is_file()]:
        if _FILE.fullmatch(file.name) and not (file.parent / WEIGHTS_INDEX).exists():
            with safe_open(file, "pt") as opened:
                found[str(file.relative_to(folder))] = list(opened.keys()), file.stat().st_size
        elif alone:
            file.unlink()
    return found


def join_parts(folder: Path, told: Sequence[WeightParts]) -> None:
    """Writes the list of an encoder's parts beside them.

    Args:
        folder: Where to write; the parts need not be there.
        told: The parts that each rank has written.
    """
    maps: dict[Path, dict[str, str]] = {}
    sizes: dict[Path, int] = {}
    for path, (keys, size) in [one for parts in told for one in parts.items()]:
        place = folder / Path(path).parent
        maps.setdefault(place, {}).update(dict.fromkeys(keys, Path(path).name))
        sizes[place] = sizes.get(place, 0) + size
    for place, names in maps.items():
        place.mkdir(parents=True, exist_ok=True)
        index = {"metadata": {"total_size": sizes[place]}, "weight_map": names}
        (place / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
