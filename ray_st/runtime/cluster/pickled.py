"""Pickles values without their tensors: those that lie in files are named, the others are kept beside.

Whatever is sent to another process goes through here: a model in a run, a teacher in a loss or an encoder in
an evaluator costs as much as it differs from its files. Tensors arrive in CPU memory, whatever device they
were on. Code that transformers downloaded with a model is sent along, as the other process may lack it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from ray import cloudpickle
from torch import Tensor, nn

from ray_st.models.mapped_weights import MappedFiles, Region, TensorFile
from ray_st.models.remote_code import install_code, loaded_code

T = TypeVar("T")


@dataclass(frozen=True)
class _Values:
    """A tensor's place among the storages that are sent.

    Args:
        storage: Its storage's number.
        offset: The tensor's first byte in it.
    """

    storage: int
    offset: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor without its values.

    Args:
        place: Where the values are.
        dtype: Their type.
        shape: The tensor's shape.
        stride: Its strides, in elements.
        is_parameter: Whether it is a parameter of a module.
        requires_grad: Whether it is trained.
        attributes: What programs have set on it.
    """

    place: Region | _Values
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    is_parameter: bool
    requires_grad: bool
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Pickled:
    """A pickled value.

    Args:
        value: The value without its tensors.
        tensors: The tensors' descriptions.
        storages: The values of tensors that are in no file; Ray stores these arrays without copying them.
        code: Python files that came with a model, by their path among transformers' modules.
    """

    value: bytes
    tensors: bytes = b""
    storages: list[np.ndarray[Any, Any]] = field(default_factory=list)
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """How many bytes are sent."""
        return len(self.value) + len(self.tensors) + sum(array.nbytes for array in self.storages)


def dump(value: object) -> Pickled:
    """Pickles a value.

    Args:
        value: Any value that cloudpickle supports.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(value)
    tensors = cloudpickle.dumps(pickler.tensors)
    return Pickled(stream.getvalue(), tensors, pickler.storages, loaded_code())


def bytes_beside_files(modules: Iterable[nn.Module]) -> int:
    """How many bytes of modules' tensors are sent, because they lie in no file.

    Args:
        modules: The modules; what they share counts once.
    """
    files = MappedFiles()
    sent = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if _has_plain_values(tensor) and files.region_of(tensor) is None:
                storage = tensor.untyped_storage()
                sent[storage.device, storage.data_ptr()] = storage.nbytes()
    return sum(sent.values())


def load(pickled: Pickled) -> Any:
    """A fresh copy of a pickled value.

    Raises:
        UnreachableWeights: If this machine cannot open a file of weights.
    """
    install_code(pickled.code)
    return _Unpickler(pickled).load()


def copy_of(value: T) -> T:
    """A copy of a value that shares nothing with it but the files of its weights."""
    copy: T = load(dump(value))
    return copy


class Carried(Generic[T]):
    """A value that is pickled by :func:`dump` wherever it occurs, such as in a task that Ray itself pickles.

    Args:
        value: The value.
    """

    def __init__(self, value: T) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        """The function that makes it again, and its argument."""
        return _carried, (dump(self.value),)


def _carried(pickled: Pickled) -> Carried[Any]:
    return Carried(load(pickled))


class _Pickler(cloudpickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.tensors: list[_Tensor] = []
        self.storages: list[np.ndarray[Any, Any]] = []
        self._numbers: dict[int, int] = {}
        self._of_storages: dict[tuple[torch.device, int], int] = {}
        self._kept: list[Tensor] = []  # no other tensor may get the same id meanwhile
        self._files = MappedFiles()

    def persistent_id(self, value: object) -> int | None:
        """The number of a tensor; None for all else, which is pickled as usual."""
        # Not of a subclass, which pickles itself in a way of its own.
        if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
            return None
        if not _has_plain_values(value):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self._kept.append(value)
            self.tensors.append(self._describe(value))
        return self._numbers[id(value)]

    def _describe(self, tensor: Tensor) -> _Tensor:
        return _Tensor(
            place=self._files.region_of(tensor) or self._values_of(tensor),
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
            stride=tensor.stride(),
            is_parameter=isinstance(tensor, nn.Parameter),
            requires_grad=tensor.requires_grad,
            attributes=dict(vars(tensor)),
        )

    def _values_of(self, tensor: Tensor) -> _Values:
        storage = tensor.untyped_storage()
        key = storage.device, storage.data_ptr()
        if key not in self._of_storages or not storage.nbytes():
            self._of_storages[key] = len(self.storages)
            whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            self.storages.append(whole.cpu().numpy())
        return _Values(self._of_storages[key], int(tensor.storage_offset()) * tensor.element_size())


def _has_plain_values(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and tensor.grad_fn is None
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: Pickled) -> None:
        super().__init__(io.BytesIO(pickled.value))
        self._tensors: list[_Tensor] = pickle.loads(pickled.tensors)
        self._arrays = pickled.storages
        self._made: dict[int, Tensor] = {}
        self._storages: dict[TensorFile | int, torch.UntypedStorage] = {}

    def persistent_load(self, number: int) -> Tensor:
        """The tensor of a number."""
        if number not in self._made:
            self._made[number] = self._make(self._tensors[number])
        return self._made[number]

    def _make(self, described: _Tensor) -> Tensor:
        place = described.place
        storage = self._open(place.file if isinstance(place, Region) else place.storage)
        tensor = torch.empty(0, dtype=described.dtype)
        offset = place.offset // tensor.element_size()
        tensor.set_(storage, offset, described.shape, described.stride)
        if described.is_parameter:
            tensor = nn.Parameter(tensor, described.requires_grad)
        else:
            tensor.requires_grad_(described.requires_grad)
        vars(tensor).update(described.attributes)
        return tensor

    def _open(self, place: TensorFile | int) -> torch.UntypedStorage:
        if place not in self._storages:
            self._storages[place] = place.map() if isinstance(place, TensorFile) else self._copy(place)
        return self._storages[place]

    def _copy(self, number: int) -> torch.UntypedStorage:
        """A storage of this process's own: Ray's memory must not be written."""
        return torch.from_numpy(self._arrays[number].copy()).untyped_storage()
