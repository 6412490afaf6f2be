"""A short digest of a value's content, equal in every process, for comparing the inputs of two runs."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
import torch
import xxhash

_PLAIN = (str, bytes, bool, int, float, complex, type(None))


def digest(value: object) -> str:
    """The digest of a value; equal for equal plain values, containers, arrays, tensors and functions.

    Other objects count only by class, because their attributes may differ between processes.

    Args:
        value: The value.
    """
    hashed = xxhash.xxh3_64()
    _add(hashed, value)
    return hashed.hexdigest()


def _add(hashed: xxhash.xxh3_64, value: object) -> None:
    for kind, add in _KINDS:
        if isinstance(value, kind):
            add(hashed, value)
            return
    hashed.update(f"{type(value).__module__}.{type(value).__qualname__};".encode())


def _add_plain(hashed: xxhash.xxh3_64, value: object) -> None:
    # Strings first, as they are by far the most frequent; the length prefix separates adjacent values.
    text = value if isinstance(value, str) else repr(value)
    encoded = text.encode("utf-8", "surrogatepass")
    hashed.update(b"%s:%d;" % (type(value).__name__.encode(), len(encoded)) + encoded)


def _add_items(hashed: xxhash.xxh3_64, values: Iterable[Any]) -> None:
    hashed.update(b"[")
    for value in values:
        _add(hashed, value)
    hashed.update(b"]")


def _add_unordered(hashed: xxhash.xxh3_64, values: Iterable[Any]) -> None:
    _add_items(hashed, sorted(digest(value) for value in values))


def _add_array(hashed: xxhash.xxh3_64, array: np.ndarray) -> None:
    if array.dtype.hasobject:
        _add_items(hashed, array.tolist())
        return
    hashed.update(f"{array.dtype.str}{array.shape};".encode())
    hashed.update(np.ascontiguousarray(array).tobytes())


def _add_tensor(hashed: xxhash.xxh3_64, tensor: torch.Tensor) -> None:
    _add_array(hashed, tensor.detach().float().cpu().numpy())


def _add_function(hashed: xxhash.xxh3_64, function: FunctionType) -> None:
    """Hashes an importable function by name, so that a new library version does not change the digest."""
    name = f"{function.__module__}.{function.__qualname__}"
    _add_plain(hashed, name)
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        _add(hashed, function.__code__)
        _add_items(hashed, [cell.cell_contents for cell in function.__closure__ or () if _is_data(cell)])


def _is_data(cell: CellType) -> bool:
    return isinstance(cell.cell_contents, (*_PLAIN, list, tuple, Mapping))


def _add_code(hashed: xxhash.xxh3_64, code: CodeType) -> None:
    _add_items(hashed, [code.co_code, code.co_names, code.co_consts])


_KINDS: tuple[tuple[type[Any] | tuple[type[Any], ...], Callable[[xxhash.xxh3_64, Any], None]], ...] = (
    (enum.Enum, lambda hashed, value: _add_plain(hashed, str(value))),
    (np.generic, lambda hashed, value: _add(hashed, value.item())),
    (_PLAIN, _add_plain),
    (os.PathLike, lambda hashed, value: _add_plain(hashed, os.fspath(value))),
    (Mapping, lambda hashed, value: _add_unordered(hashed, value.items())),
    (Set, _add_unordered),
    ((list, tuple), _add_items),
    (np.ndarray, _add_array),
    (torch.Tensor, _add_tensor),
    (FunctionType, _add_function),
    (partial, lambda hashed, value: _add_items(hashed, [value.func, value.args, value.keywords])),
    (CodeType, _add_code),
)
