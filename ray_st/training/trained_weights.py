"""The trained weights of a run on their way back: a file in the run's folder, from which the driver reads.

The file holds what differs from the files that the model was opened from: everything after a full training,
adapters after a training of adapters. The driver maps it, so that its model costs no memory until it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ray_st.models.mapped_weights import MappedFiles
from ray_st.models.packed_weights import is_packed
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.strategies.step_module import LossOrLosses, losses_of, owned_by_loss

PREFIX = "trained-"
"""First part of the file's name; the run's id follows."""

_SAME = "same"
"""Key, in the file's metadata, of the names of tensors whose values are another one's."""


def keep_trained(store: CheckpointStore, model: nn.Module, loss: LossOrLosses) -> str:
    """Writes the trained weights into a run's folder; returns the file's name.

    Args:
        store: The run's folder.
        model: The model, with whole weights.
        loss: The loss, or one for each dataset.
    """
    name = f"{PREFIX}{store.run_id[:8]}.safetensors"
    store.put_file(name, lambda file: write_trained(file, model, loss))
    return name


def write_trained(file: Path, model: nn.Module, loss: LossOrLosses) -> None:
    """Writes the tensors of a model and its losses, except those that are as in the model's files.

    Args:
        file: A new file.
        model: The model, with whole weights.
        loss: The loss, or one for each dataset.
    """
    files, kept, same, first = MappedFiles(), dict[str, Tensor](), dict[str, str](), dict[Any, str]()
    for name, tensor in _tensors(model, loss).items():
        if files.region_of(tensor) is not None:
            continue
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in first:
            same[name] = first[key]
        else:
            first[key] = name
            kept[name] = tensor.detach().cpu().contiguous()
    save_file(kept, str(file), metadata={_SAME: json.dumps(same)})


def take_trained(file: Path, model: nn.Module, loss: LossOrLosses) -> None:
    """Gives a model and its losses the weights in a file; all others stay as they are.

    Where type and device allow it, the weights become parts of the mapped file.

    Args:
        file: What :func:`write_trained` wrote.
        model: The model that the run began with.
        loss: The loss, or one for each dataset.

    Raises:
        ValueError: If the file holds weights of another model.
    """
    own = _tensors(model, loss)
    with safe_open(file, "pt") as opened:
        saved = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        same = json.loads(opened.metadata()[_SAME])
    saved |= {name: saved[other] for name, other in same.items()}
    if odd := sorted(saved.keys() - own.keys()):
        raise ValueError(f"{file} holds weights that the model and its loss do not have: {odd[:5]}.")
    with torch.no_grad():
        for name, tensor in saved.items():
            _replace(own[name], tensor)


def _tensors(model: nn.Module, loss: LossOrLosses) -> dict[str, Tensor]:
    """The tensors to be sent: parameters and buffers of the model that are saved, and all of the losses."""
    state: Mapping[str, Any] = model.state_dict(keep_vars=True)
    # Packed weights are not trained; their layers also write how they were packed.
    parameters = model.named_parameters(remove_duplicate=False)
    own = {name for name, tensor in parameters if not is_packed(tensor)}
    own |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    of_model = {f"model.{name}": state[name] for name in state if name in own}
    return {**of_model, **{f"loss.{name}": tensor for name, tensor in owned_by_loss(model, loss).items()}}


def _replace(tensor: Tensor, new: Tensor) -> None:
    alike = tensor.dtype == new.dtype and tensor.shape == new.shape and tensor.stride() == new.stride()
    if alike and tensor.device == new.device:
        tensor.data = new
    else:
        tensor.copy_(new)


class WeightsToCome:
    """Weights of a model that are read when it is first used.

    Until then its tensors are empty, so that nothing can take the old values for the new ones.

    Args:
        model: The model that the run began with.
        loss: The loss, or one for each dataset.
        fetch: Brings the file to this machine.
    """

    def __init__(self, model: nn.Module, loss: LossOrLosses, fetch: Callable[[], Path]) -> None:
        self._model, self._loss, self._fetch = model, loss, fetch
        tensors = _tensors(model, loss)
        self._before = {name: tensor.data for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.data = tensor.new_empty(0)
        parts = {
            id(part): part for root in (model, *losses_of(loss).values()) for part in root.modules()
        }.values()
        self._hooks = [
            *(part.register_forward_pre_hook(self._on_use) for part in parts),
            *(part.register_state_dict_pre_hook(self._on_use) for part in parts),
        ]

    def _on_use(self, *_: object) -> None:
        self.read()

    def read(self) -> None:
        """Reads the weights, unless that was done already."""
        hooks, self._hooks = self._hooks, []
        if not hooks:
            return
        for hook in hooks:
            hook.remove()
        for name, tensor in _tensors(self._model, self._loss).items():
            tensor.data = self._before[name]
        self._before = {}
        take_trained(self._fetch(), self._model, self._loss)
