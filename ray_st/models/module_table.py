"""Which class the type of a module in a folder means, and the type under which a module is written.

Folders name modules as this package's peer does, in an older and a newer form with the same last part. A
user's own class is imported only if the folder is trusted. When a model reads weights that it wrote itself,
the names mean its own classes (:func:`with_classes_of`) and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

from torch import nn
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module

from ray_st.models import MODULES
from ray_st.models.folder_files import ModelFolderError
from ray_st.models.module import HasTokenizer, LoadOptions, Module, Saveable
from ray_st.models.remote_code import is_remote

_FAMILIES = ("sentence_transformers", "ray_st")

_live: ContextVar[Mapping[str, Any]] = ContextVar("parts of a live model", default=MappingProxyType({}))


@contextmanager
def with_classes_of(model: nn.Module) -> Iterator[None]:
    """Within this context, a folder's names of foreign classes mean the classes of a live model.

    Args:
        model: The model that reads a folder written by itself or by its copy in another process.
    """
    tokenizers = [part.tokenizer for part in model.modules() if isinstance(part, HasTokenizer)]
    token = _live.set({_written_name(type(part)): part for part in [*model.modules(), *tokenizers]})
    try:
        yield
    finally:
        _live.reset(token)


def live_part(path: str) -> Any:
    """The part of the live model, if any, whose class has this name in folders."""
    return _live.get().get(path)


def own_name(path: str) -> str | None:
    """The last part of a dotted name from this package or its peer; None for any other name."""
    package, _, name = path.rpartition(".")
    return name if package.split(".")[0] in _FAMILIES else None


def import_name(path: str) -> Any:
    """What a dotted name refers to; imports its module."""
    package, _, name = path.rpartition(".")
    return resolve_name(f"{package}:{name}")


def read_module(folder: Path, source: Path, kind: str, path: str, options: LoadOptions) -> nn.Module:
    """A module from its folder.

    Args:
        folder: The folder that contains ``path``, and the Python file of a custom module.
        source: The file that names the module, for errors.
        kind: The module's type, a dotted name.
        path: Where in the folder the module is.
        options: Passed to the ``load`` of this package's modules. ``trust_remote_code`` also says whether a
            type from outside this package may be imported and run.

    Raises:
        ModelFolderError: If the type is unknown or not trusted, the path leads out of the folder, or the
            module cannot be read.
    """
    trust = options.get("trust_remote_code", False)
    family = module_class(folder, source, kind, trust)
    place = inside(folder, source, path)
    if issubclass(family, Module):
        return family.load(place, **{**options, "trust_remote_code": trust})
    return family.load(str(place))


def module_class(folder: Path, source: Path, kind: str, trust: bool) -> Any:
    """The class that a module's type means; see :func:`read_module`."""
    name = own_name(kind)
    if name is not None:
        if name in MODULES:
            return import_name(f"{MODULES[name]}.{name}")
        raise ModelFolderError(f"{source} names the module {kind}; known are {', '.join(MODULES)}.")
    if (part := live_part(kind)) is not None:
        return type(part)
    if not trust:
        raise ModelFolderError(
            f"{source} names the module {kind}, which is code from outside this package. "
            "Read that code, then pass trust_remote_code=True if you trust it."
        )
    package = kind.rpartition(".")[0]
    if package and (folder / f"{package}.py").is_file():
        return get_class_from_dynamic_module(kind, str(folder))
    return import_name(kind)


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
    """The type under which a module is written; the code of a custom one is copied into the folder."""
    kind = type(module)
    if MODULES.get(kind.__name__) == kind.__module__:
        return f"sentence_transformers.models.{kind.__name__}"
    if is_remote(kind):
        custom_object_save(module, folder)
    return _written_name(kind)


def _written_name(kind: type) -> str:
    """The name of a class from outside this package."""
    if is_remote(kind):
        return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def saveable(name: str, module: nn.Module) -> Saveable:
    """The module, as one that can be written.

    Raises:
        ValueError: If it has no ``save(folder)``.
    """
    if not isinstance(module, Saveable):
        raise ValueError(f"Module {name} ({type(module).__name__}) cannot be saved: it has no save(folder).")
    return module
