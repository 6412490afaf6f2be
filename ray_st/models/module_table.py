"""Which class a folder's name of a module means, and the name under which a module is written.

Folders name modules as the peer of this package does, in an older and in a newer form: the last part is the same. A class of the
user's own is imported only if the folder is trusted; where a model takes over weights that it wrote itself, its own classes are
meant (:func:`with_classes_of`), and nothing is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module

from ray_st.models import MODULES
from ray_st.models.folder_files import ModelFolderError
from ray_st.models.module import Module

_FAMILIES = ("sentence_transformers", "ray_st")


_live: ContextVar[Mapping[str, Any]] = ContextVar("parts of a live model", default=MappingProxyType({}))


@contextmanager
def with_classes_of(model: nn.Module) -> Iterator[None]:
    """While this is open, a folder's names of classes from elsewhere mean those of a live model, whose code runs anyway.

    Args:
        model: The model that reads a folder which it, or another process's copy of it, wrote.
    """
    parts = [*model.modules(), *(part.tokenizer for part in model.modules() if hasattr(part, "tokenizer"))]
    token = _live.set({_written_name(type(part)): part for part in parts})
    try:
        yield
    finally:
        _live.reset(token)


def live_part(path: str) -> Any:
    """The part of the live model whose class has this name in folders; None if there is none, or no live model."""
    return _live.get().get(path)


def own_name(path: str) -> str | None:
    """The last part of a dotted name from this package or its peer; None for a name from elsewhere."""
    package, _, name = path.rpartition(".")
    return name if package.split(".")[0] in _FAMILIES else None


def read_module(folder: Path, source: Path, kind: str, path: str, trust: bool, **options: Any) -> nn.Module:
    """A module from its folder.

    Args:
        folder: The folder in which ``path`` lies, and a custom module's Python file.
        source: The file that names the module, for errors.
        kind: The module's type, a dotted name.
        path: Where in the folder the module is.
        trust: Whether a type from outside this package may be imported and run.
        **options: Handed to the ``load`` of this package's modules.

    Raises:
        ModelFolderError: If the type is unknown or not trusted, the path leads out of the folder, or the module cannot
            be read.
    """
    family = module_class(folder, source, kind, trust)
    place = inside(folder, source, path)
    if issubclass(family, Module):
        return family.load(place, trust_remote_code=trust, **options)
    return family.load(str(place))


def module_class(folder: Path, source: Path, kind: str, trust: bool) -> Any:
    """The class of a module's type; see :func:`read_module`."""
    name = own_name(kind)
    if name is not None:
        if name in MODULES:
            return getattr(importlib.import_module(MODULES[name]), name)
        raise ModelFolderError(f"{source} names the module {kind}; known are {', '.join(MODULES)}.")
    if (part := live_part(kind)) is not None:
        return type(part)
    if not trust:
        raise ModelFolderError(
            f"{source} names the module {kind}, which is code from outside this package. "
            "Read that code, then pass trust_remote_code=True if you trust it."
        )
    package, _, name = kind.rpartition(".")
    if package and (folder / f"{package}.py").is_file():
        return get_class_from_dynamic_module(kind, str(folder))
    return getattr(importlib.import_module(package), name)


def inside(folder: Path, source: Path, path: str) -> Path:
    """A path in a folder.

    Raises:
        ModelFolderError: If it leads out of the folder.
    """
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ModelFolderError(f"{source} names the path {path!r}, which leads out of the model folder.")
    return folder / path


def type_name(folder: Path, module: nn.Module) -> str:
    """The name under which a module's type is written; the code of a custom one is copied into the folder."""
    kind = type(module)
    if MODULES.get(kind.__name__) == kind.__module__:
        return f"sentence_transformers.models.{kind.__name__}"
    if kind.__module__.startswith("transformers_modules."):
        custom_object_save(module, folder)
    return _written_name(kind)


def _written_name(kind: type) -> str:
    """The name of a class from outside this package."""
    if kind.__module__.startswith("transformers_modules."):
        return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def check_can_be_saved(name: str, module: nn.Module) -> None:
    """Makes sure that a module can be written.

    Raises:
        ValueError: If it has no ``save(folder)``.
    """
    if not callable(getattr(module, "save", None)):
        raise ValueError(f"Module {name} ({type(module).__name__}) cannot be saved: it has no save(folder).")
