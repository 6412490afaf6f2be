"""Embeddings as tensors: conversion from any accepted form, and basic operations."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ray_st.util.host_facts import HOST_KEYS, remember

Embeddings: TypeAlias = "Tensor | np.ndarray | Sequence[Any]"
"""Accepted forms of embeddings: a tensor, an array, or a list of either or of numbers."""

Array = TypeVar("Array", Tensor, np.ndarray)
T = TypeVar("T")


class AutogradContext(Protocol):
    """What the two passes of a :class:`torch.autograd.Function` use of their context."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keeps tensors for the backward pass."""


def to_tensor(embeddings: Embeddings) -> Tensor:
    """Converts embeddings of any form to one floating-point tensor.

    Types of less than 32 bits become float32, because products in them would round close scores to ties.

    Args:
        embeddings: A tensor, an array, or a list of tensors, arrays or numbers of equal length.
    """
    if isinstance(embeddings, np.ndarray):
        tensor = torch.from_numpy(embeddings) if embeddings.flags.writeable else torch.tensor(embeddings)
    elif isinstance(embeddings, Tensor):
        tensor = embeddings
    elif len(embeddings) and isinstance(embeddings[0], Tensor):
        tensor = torch.stack(list(embeddings))
    elif len(embeddings) and isinstance(embeddings[0], np.ndarray):
        tensor = torch.from_numpy(np.stack(embeddings))
    else:
        tensor = torch.tensor(embeddings)
    wide = tensor.is_floating_point() and torch.finfo(tensor.dtype).bits >= 32
    return tensor if wide else tensor.float()


def to_rows(embeddings: Embeddings) -> Tensor:
    """Like :func:`to_tensor`, but a single embedding (d,) becomes one row (1, d)."""
    tensor = to_tensor(embeddings)
    return tensor.unsqueeze(0) if tensor.dim() == 1 else tensor


def to_numpy(tensor: Tensor) -> np.ndarray:
    """An array with the tensor's values; bfloat16, which numpy lacks, becomes float32."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()


def normalize_embeddings(embeddings: Tensor) -> Tensor:
    """Scales each embedding to unit length; all-zero embeddings stay zero.

    Args:
        embeddings: (..., d).
    """
    return torch.nn.functional.normalize(embeddings, p=2, dim=-1)


def truncate_embeddings(embeddings: Array, truncate_dim: int | None) -> Array:
    """The first ``truncate_dim`` dimensions of each embedding.

    Args:
        embeddings: (..., d), a tensor or an array.
        truncate_dim: Number of dimensions to keep; None, or more than there are, keeps all.
    """
    return embeddings[..., :truncate_dim]


def batch_to_device(batch: dict[str, Any], target_device: torch.device | str) -> dict[str, Any]:
    """Moves a batch's tensors to a device; other values, and what is for the host, stay unchanged.

    Args:
        batch: Named values, some of them tensors. Changed in place and returned.
        target_device: The device.
    """
    for name, value in batch.items():
        if isinstance(value, Tensor) and name not in HOST_KEYS:
            batch[name] = to_device(value, target_device)
    return batch


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; a GPU gets it from pinned memory, for which the host does not wait.

    The result remembers its values on the host; see :func:`ray_st.util.host_facts.host_copy`.

    Args:
        tensor: On any device.
        device: The device.
    """
    if tensor.device.type != "cpu" or torch.device(device).type != "cuda":
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return remember(pinned.to(device, non_blocking=True), tensor)


class Arriving:
    """A tensor on its way to the host; what follows on its device does not wait until it is there.

    Args:
        tensor: On any device. Must not be changed in place.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._is_there: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._values = tensor.cpu()
            return
        self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._values.copy_(tensor, non_blocking=True)
        self._is_there = torch.cuda.current_stream(tensor.device).record_event()

    def wait(self) -> Tensor:
        """The tensor on the host, once it is there."""
        if self._is_there is None:
            return self._values
        self._is_there.synchronize()
        return self._values.clone()  # pinned memory is for what is on its way: the next tensor takes it


def on_host(value: T) -> T:
    """A copy of a value, for another process: its tensors, wherever in it they are, are in main memory.

    A pickled tensor of a GPU cannot be loaded where there is none.

    Args:
        value: Anything that can be pickled.

    Raises:
        TypeError: If it cannot be pickled; likewise ``pickle.PicklingError`` and ``AttributeError``.
    """
    stream = io.BytesIO()
    _HostPickler(stream).dump(value)
    copy: T = pickle.loads(stream.getvalue())
    return copy


class _HostPickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        """Pickles a device's tensor as the same one in main memory, and everything else as usual."""
        if not isinstance(value, Tensor) or value.device.type in ("cpu", "meta"):
            return NotImplemented
        plain = value.detach().cpu().requires_grad_(value.requires_grad)
        host = nn.Parameter(plain, value.requires_grad) if isinstance(value, nn.Parameter) else plain
        return host.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
