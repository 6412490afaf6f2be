"""A GPU that is not there: tensors that say they are on ``cuda``, compute on the CPU, and count synchronizations.

Within :func:`pretended_device`, ``torch.cuda`` has one device, and what is put on it is a :class:`DeviceTensor`.
An operation on tensors of host and device raises as CUDA does, what makes the host wait for the device is
recorded with the place in ray_st that asked for it, and a tensor on the device cannot be pickled.

Nothing stays behind that other tests could see: no backend is registered, which would be for the whole process.
To PyTorch's core the tensors are on ``lazy``, a type of device that every build knows and that has no kernels;
to Python, on ``cuda``. Therefore ``torch.autocast("cuda")`` has no effect on them, and collectives do not know them.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import pytest
import torch
import torch._dynamo  # lists the functions of torch.cuda when it is imported: not those of the pretence
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import ray_st
from ray_st.models.unpadded import packed_attention

HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
CORE = torch.device("lazy")
"""What PyTorch's core takes the device for."""

MEMORY = 80 * 2**30
"""Bytes that the device says it has."""

PACKAGE = f"{Path(ray_st.__file__).parent}/"

aten = torch.ops.aten


class MixedDevices(RuntimeError):
    """One operation on tensors of host and device."""


@dataclass
class Syncs:
    """What made the host wait for the device.

    Attributes:
        seen: For each time the kind and the place, ``"FILE:LINE"`` in ray_st; of other packages' waits the
            place is the line in ray_st that called them.
    """

    seen: list[tuple[str, str]] = field(default_factory=list)

    def note(self, kind: str) -> None:
        """Records a wait in the current place."""
        self.seen.append((kind, _place()))

    def take(self) -> Counter[tuple[str, str]]:
        """How often each was seen since the last call."""
        found = Counter(self.seen)
        self.seen.clear()
        return found


def _place() -> str:
    for frame, line in traceback.walk_stack(None):
        code = frame.f_code
        # Every operation passes a mode's method, if ray_st has set a mode.
        if code.co_filename.startswith(PACKAGE) and code.co_name != "__torch_function__":
            return f"{code.co_filename.removeprefix(PACKAGE)}:{line}"
    return "outside of ray_st"


class DeviceTensor(Tensor):
    """A tensor on the pretended device; ``content`` is the tensor on the CPU that it computes with."""

    content: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content: Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            content.size(),
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            layout=content.layout,
            device=CORE,
        )
        made.content = content
        _Memory.current.keep(made)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise AssertionError(f"{func} on a tensor of a pretended device that is gone")

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    def get_device(self) -> int:
        return 0

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: DeviceTensor) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.content = other.content
        _Memory.current.keep(self)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.content.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.content.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            vars(copied).update({name: value for name, value in vars(self).items() if name == "_is_param"})
            memo[id(self)] = copied
        found: DeviceTensor = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a tensor on the device must not be pickled: {tuple(self.shape)}")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.content!r})"


class _Memory:
    """Counts the bytes of the storages that tensors on the device use, as the allocator of CUDA does.

    What a kernel needs while it runs is not counted.
    """

    current: ClassVar[_Memory]

    def __init__(self) -> None:
        self.used = self.peak = 0
        self._tensors: dict[int, int] = {}  # of each storage
        self._lock = threading.RLock()  # garbage is collected in any thread, and within any call

    def keep(self, tensor: DeviceTensor) -> None:
        storage = tensor.content.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        with self._lock:
            if place not in self._tensors:
                self._tensors[place] = 0
                self.used += size
                self.peak = max(self.peak, self.used)
            self._tensors[place] += 1
        weakref.finalize(tensor.content, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        with self._lock:
            self._tensors[place] -= 1
            if not self._tensors[place]:
                del self._tensors[place]
                self.used -= size

    def forget_peak(self) -> None:
        self.peak = self.used


TO_DEVICE, TO_HOST = "host to device", "device to host"
_WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.equal.default: "equal",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
"""Operations whose result the host must see, to know a number or a shape."""

_INDEXING = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)
_COPIES = (aten._to_copy.default, aten.copy_.default)  # wait unless they are told not to
_PACK = aten._pack_padded_sequence.default
"""Takes lengths from the host, and returns the sizes of batches there."""

_EACH_ON_THE_DEVICE = (aten.cat.default, aten.stack.default)
"""Operations that do not even take numbers, tensors without dimensions, from the host."""


_PINNING = (aten._pin_memory.default, aten.is_pinned.default)


class _Operators(TorchDispatchMode):
    """Computes on the CPU what is asked of the device."""

    def __init__(self, syncs: Syncs) -> None:
        super().__init__()
        self.syncs = syncs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        there = {id(tensor.content): tensor for tensor in tensors if isinstance(tensor, DeviceTensor)}
        asked = kwargs.get("device")
        goes_there = bool(there) if asked is None else asked.type in (CORE.type, DEVICE.type)
        if func in _PINNING:  # a backward pass comes here without passing _Functions
            return args[0] if func is aten._pin_memory.default else False
        if there:
            _check(func, tensors, args)
        for kind in _waits(func, args, kwargs, goes_there):
            self.syncs.note(kind)
        if goes_there and asked is not None:
            kwargs["device"] = HOST
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        with _device_generator() if goes_there and _draws(func) else nullcontext():
            found = func(*tree_map(_content, args), **tree_map(_content, kwargs))
        if func is _PACK and goes_there:
            return _on_device(found[0], there), found[1]
        return tree_map(lambda value: _on_device(value, there), found) if goes_there else found


def _check(func: Any, tensors: Sequence[Tensor], args: Sequence[Any]) -> None:
    """Raises for an operation on tensors of host and device."""
    if func in _COPIES or func is _PACK:
        return
    host = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if func in _INDEXING and isinstance(args[0], DeviceTensor):
        host = [tensor for tensor in host if all(tensor is not index for index in args[1])]
    if func not in _EACH_ON_THE_DEVICE:
        host = [tensor for tensor in host if tensor.dim()]
    if host:
        shapes = [(str(tensor.device), tuple(tensor.shape)) for tensor in tensors]
        raise MixedDevices(f"{func} of tensors on host and device, in {_place()}: {shapes}")


def _waits(func: Any, args: Sequence[Any], kwargs: dict[str, Any], goes_there: bool) -> Iterator[str]:
    """What an operation makes the host wait for."""
    first = args[0] if args else None
    on_device = isinstance(first, DeviceTensor)
    if func in _WAITING and on_device:
        yield _WAITING[func]
    if func is aten._to_copy.default and on_device != goes_there and not kwargs.get("non_blocking"):
        yield TO_DEVICE if goes_there else TO_HOST
    if func is aten.copy_.default and on_device != isinstance(args[1], DeviceTensor) and not any(args[2:]):
        yield TO_DEVICE if on_device else TO_HOST
    if func in _INDEXING and on_device:
        indices = [index for index in args[1] if index is not None]
        yield from [TO_DEVICE] * any(not isinstance(index, DeviceTensor) for index in indices)
        fills = len(args) > 2 and args[2].numel() == 1 and len(indices) == 1  # no shape depends on the mask
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        yield from ["boolean index"] * (bool(masks) and not fills)


def _content(value: Any) -> Any:
    return value.content if isinstance(value, DeviceTensor) else value


def _on_device(value: Any, known: dict[int, DeviceTensor]) -> Any:
    """A result on the device: an operand if the operation changed it in place, else a new tensor."""
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else DeviceTensor(value)


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@contextmanager
def _device_generator() -> Iterator[None]:
    """Random numbers come from the device's own generator, not from the host's."""
    generator: torch.Generator = torch.cuda.default_generators[0]
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


class _Functions(TorchFunctionMode):
    """Names the device to PyTorch's core, which would look for CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if func in (Tensor.pin_memory, Tensor.is_pinned):
            return args[0] if func is Tensor.pin_memory else False
        if func is Tensor.cuda:
            return args[0].to(CORE)
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and not isinstance(
            args[0], DeviceTensor
        ):
            asked = _core(kwargs.pop("device", None))
            made = func(*args, **kwargs)
            return made if asked is None else made.to(asked)
        return func(*map(_core, args), **{name: _core(value) for name, value in kwargs.items()})


def _core(value: Any) -> Any:
    is_device = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith(DEVICE.type))
    return CORE if is_device and torch.device(value).type == DEVICE.type else value


def _of_cuda(syncs: Syncs) -> dict[str, Any]:
    """What ``torch.cuda`` says and does while the device is pretended."""

    def wait(*args: object) -> None:
        syncs.note("synchronize")

    properties = SimpleNamespace(total_memory=MEMORY, name="pretended", major=9, minor=0)
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "get_device_name": properties.name,
        "get_device_capability": (properties.major, properties.minor),
        "get_device_properties": properties,
        "get_per_process_memory_fraction": 1.0,
        "mem_get_info": (MEMORY, MEMORY),
        "is_current_stream_capturing": False,
        "current_stream": SimpleNamespace(
            synchronize=wait, record_event=lambda: SimpleNamespace(synchronize=wait)
        ),
    }
    ignored = ("_lazy_init", "set_device", "empty_cache", "ipc_collect")
    memory = _Memory.current = _Memory()

    def answer(value: Any) -> Callable[..., Any]:
        return lambda *args, **options: value

    return {
        **{name: answer(value) for name, value in answers.items()},
        **{name: answer(None) for name in ignored},
        "synchronize": wait,
        "memory_allocated": lambda *args: memory.used,
        "max_memory_allocated": lambda *args: memory.peak,
        "reset_peak_memory_stats": lambda *args: memory.forget_peak(),
        "default_generators": (torch.Generator(),),
    }


@contextmanager
def pretended_device() -> Iterator[Syncs]:
    """Within this context, of this thread, there is a device ``cuda``; afterwards nothing of it is left."""
    syncs = Syncs()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _of_cuda(syncs).items():
            patch.setattr(torch.cuda, name, value)
            if name in (
                "_lazy_init",
                "current_device",
                "device_count",
                "is_initialized",
                "default_generators",
            ):
                patch.setattr(torch.cuda.random, name, value, raising=False)
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        patch.setattr(packed_attention, "KERNEL", None)  # it is CUDA's
        # As on CUDA, a module that moves keeps its parameters' objects.
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with _Functions(), _Operators(syncs):
                yield syncs
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
