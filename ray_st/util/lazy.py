"""Packages that list their members without loading them (PEP 562), and module files of earlier releases."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def lazy_module(
    package: str,
    table: Mapping[str, str],
    module_files: bool = False,
    unserved: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Creates the three names with which a package offers members that are loaded on first use.

    Use it as ``__getattr__, __dir__, __all__ = lazy_module(__name__, {"Part": "package.file"})``.

    Args:
        package: ``__name__`` of the package.
        table: The full name of the defining module for each public name. A name whose module is
            ``package.name`` itself refers to that module.
        module_files: Whether ``from package.Part import Part`` also works for each class, as in releases that
            had one file per class.
        unserved: Names that scripts ask for but that do not exist, each with its error message.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__`` (sorted) for the package.
    """

    def load(name: str) -> Any:
        if unserved and name in unserved:
            raise ImportError(unserved[name], name=package)
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(table[name])
        value = module if table[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next access skips __getattr__
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *table})

    if module_files:
        for name, holder in table.items():
            if name[0].isupper():
                offer_module(
                    f"{package}.{name}", holder, [n for n, other in table.items() if other == holder]
                )
    return load, names, sorted(table)


def offer_module(name: str, holder: str, parts: list[str] | None = None) -> None:
    """Makes a module without a file importable; its attributes come from the module that holds the parts.

    It is put into ``sys.modules`` before any import. The import system uses it from there unchanged; a module
    that it loads itself would be set as an attribute of the package, and replace the class of the same name.

    Args:
        name: Full name of the new module.
        holder: Full name of the module that holds the parts.
        parts: Their names; None for all of the holder's.
    """
    sys.modules[name] = _StandIn(name, holder, parts)


class _StandIn(ModuleType):
    def __init__(self, name: str, holder: str, parts: list[str] | None) -> None:
        super().__init__(name, f"Another name of parts of {holder}.")
        self.__spec__ = ModuleSpec(name, None, origin=holder)
        self._holder, self._parts = holder, parts

    def __getattr__(self, name: str) -> Any:
        known = not name.startswith("_") if self._parts is None else name in self._parts
        if not known:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(self._holder), name)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        # Pickling a function by value includes modules whose names it uses, such as losses.CoSENTLoss.
        return importlib.import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        return self._parts or dir(importlib.import_module(self._holder))


_PROVIDERS: dict[str, tuple[str, str]] = {}
"""Parts that a lower layer uses without knowing their module: the root package registers them."""


def provide(port: str, module: str, name: str) -> None:
    """Registers the provider of a part; its module is loaded on first use.

    Args:
        port: The name that lower layers use.
        module: The full name of the module that defines the part.
        name: The part's name there.
    """
    _PROVIDERS[port] = (module, name)


def use(port: str) -> Any:
    """The part that is registered under a name."""
    module, name = _PROVIDERS[port]
    return getattr(importlib.import_module(module), name)
