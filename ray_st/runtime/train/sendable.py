"""Checks that everything sent to workers can be pickled.

If not, reports which attribute of which part is the cause.
"""

from __future__ import annotations

import functools
import os
import pickle
import types
from collections.abc import Iterator, Mapping

import datasets
import numpy as np
import pyarrow as pa
import torch
from ray import cloudpickle
from torch import nn

_BULK = (torch.Tensor, datasets.Dataset, pa.Table, pa.RecordBatch)
"""Types that can always be pickled; the check skips them because they may be large."""

_FAILURES = (TypeError, AttributeError, pickle.PicklingError, ValueError, RuntimeError, OSError)
"""Errors raised by objects that cannot be pickled."""


def check_sendable(parts: Mapping[str, object]) -> None:
    """Rejects parts of a run that cannot be pickled, before a cluster is started.

    Args:
        parts: What is sent to the workers, by the names that users know.

    Raises:
        ValueError: If a part cannot be pickled; names the first one, and the path and type of the cause.
    """
    for name, part in parts.items():
        error = _failure(part)
        if error is None:
            continue
        path, culprit = _trace(name, part)
        raise ValueError(
            f"{path}: {_kind(culprit)} cannot be sent to the workers ({error}). Make it where it is used, "
            "such as in on_train_begin of a callback, or have its owner leave it out of its state "
            "(__getstate__)."
        ) from error


class _Trial(cloudpickle.Pickler):
    """A pickler that discards its output and skips large values."""

    def persistent_id(self, value: object) -> str | None:
        """Marks values that are assumed to be picklable."""
        bulk = isinstance(value, _BULK) or (isinstance(value, np.ndarray) and not value.dtype.hasobject)
        return "bulk" if bulk else None


def _failure(value: object) -> Exception | None:
    """Why a value cannot be pickled; None if it can."""
    with open(os.devnull, "wb") as nowhere:
        try:
            _Trial(nowhere).dump(value)
        except _FAILURES as error:
            return error
    return None


def _trace(path: str, value: object) -> tuple[str, object]:
    """The path to the innermost value that cannot be pickled, and the value."""
    seen: set[int] = set()
    while True:
        seen.add(id(value))
        for step, part in _inside(value):
            if id(part) not in seen and _failure(part) is not None:
                path, value = path + step, part
                break
        else:
            return path, value


def _inside(value: object) -> Iterator[tuple[str, object]]:
    """The values that are pickled along with a value, and the expressions by which users reach them."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args))
        yield from ((f".keywords[{name!r}]", part) for name, part in value.keywords.items())
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        yield from ((f".{name}", part) for name, part in vars(value).items() if not name.startswith("__"))
    else:
        yield from _of_object(value)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """A function's closure variables and argument defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell != types.CellType():  # an empty cell
            yield f".{name}", cell.cell_contents
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]
    yield from ((f".__defaults__[{index}]", part) for index, part in enumerate(function.__defaults__ or ()))


def _of_object(value: object) -> Iterator[tuple[str, object]]:
    """The pickled state of an object; torch modules by name."""
    try:
        reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except _FAILURES:
        return  # the object itself raises
    if not isinstance(reduced, tuple):
        return
    state = reduced[2] if len(reduced) > 2 else None
    layers = state if isinstance(state, tuple) else (state,)  # the instance dict, and slots
    for layer in layers:
        for name, part in layer.items() if isinstance(layer, Mapping) else ():
            if isinstance(value, nn.Module) and name in ("_modules", "_buffers", "_parameters"):
                yield from ((f".{inner}", module) for inner, module in part.items())
            else:
                yield f".{name}", part
    yield from _inside(reduced[1])  # arguments of the reconstructor


def _kind(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a {name!r}"
