"""Copies of modules and states in host memory, which stay as they are while training goes on."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_DICTS = (dict, OrderedDict, defaultdict)
_Kind = tuple[torch.Size, tuple[int, ...], torch.dtype, bool]


class HostCopies:
    """Makes copies of values; the memory of their tensors is reused from one copy to the next.

    A copy has the structure of the original: modules and containers are copied, each tensor is copied to host
    memory once, so that tied weights stay tied. Everything else (tokenizers, configurations) is shared.
    Copying into memory that was used before is several times faster than into new memory.
    """

    def __init__(self) -> None:
        self._free = defaultdict[_Kind, list[Tensor]](list)
        self._lent: list[tuple[_Kind, Tensor]] = []

    def of(self, value: T, shared: Iterable[object] = (), copied: Iterable[object] = ()) -> T:
        """A copy of a value.

        Args:
            value: Modules, tensors, and tuples, lists and dicts of them.
            shared: Objects within it that are not copied, such as weights that are not trained.
            copied: Other objects within it that are copied, by :func:`copy.deepcopy`.
        """
        memo: dict[int, Any] = {id(one): one for one in shared}
        memo.update((id(one), copy.deepcopy(one)) for one in copied)
        made: T = self._copy(value, memo)
        self.wait()
        return made

    def begin(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor without its gradient, complete after :meth:`wait`."""
        return self._on_host(tensor.detach())

    def wait(self) -> None:
        """Waits for all copies so far, which a GPU may still be making."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def release(self) -> None:
        """Lets the next copy use the memory of all copies so far, which must not be used any more."""
        for kind, buffer in self._lent:
            self._free[kind].append(buffer)
        self._lent = []

    def _copy(self, value: Any, memo: dict[int, Any]) -> Any:
        if id(value) in memo:
            return memo[id(value)]
        if isinstance(value, Tensor):
            host = self._on_host(value.detach())
            trained = isinstance(value, nn.Parameter)
            memo[id(value)] = nn.Parameter(host, value.requires_grad) if trained else host
        elif isinstance(value, nn.Module):
            made = memo[id(value)] = type(value).__new__(type(value))
            vars(made).update((name, self._copy(part, memo)) for name, part in vars(value).items())
        elif type(value) in _DICTS:
            filled = memo[id(value)] = copy.copy(value)
            filled.update((key, self._copy(part, memo)) for key, part in value.items())
        elif type(value) is list:
            memo[id(value)] = grown = list[Any]()
            grown.extend(self._copy(part, memo) for part in value)
        elif type(value) is tuple:
            memo[id(value)] = tuple(self._copy(part, memo) for part in value)
        elif type(value) is MethodType:
            memo[id(value)] = MethodType(value.__func__, self._copy(value.__self__, memo))
        else:
            return value
        return memo[id(value)]

    def _on_host(self, tensor: Tensor) -> Tensor:
        pinned = tensor.is_cuda
        kind = tensor.shape, tensor.stride(), tensor.dtype, pinned
        free = self._free[kind]
        buffer = free.pop() if free else torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        self._lent.append((kind, buffer))
        return buffer.copy_(tensor, non_blocking=pinned)
