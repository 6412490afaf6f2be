"""Packages that list their parts without loading them (PEP 562), and module files of earlier releases."""

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
    """Make the three names by which a package offers parts that are loaded at their first use.

    Use it as ``__getattr__, __dir__, __all__ = lazy_module(__name__, {"Part": "package.file"})``.

    Args:
        package: ``__name__`` of the package.
        table: Each public name and the full name of the module that holds it. A name whose module is
            ``package.name`` itself stands for that module.
        module_files: Whether ``from package.Part import Part`` works for each class, too, as in releases that
            had a file for each.
        unserved: Names that scripts ask for and that are not there, with what to tell them.

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
        setattr(sys.modules[package], name, value)  # the next use finds it at once
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

    It is put into ``sys.modules`` ahead of any import. There the import system takes it as it is; a module
    that it had to load it would set in the package, in place of the class of the same name.

    Args:
        name: Full name of the module.
        holder: Full name of the module that holds the parts.
        parts: Their names; None for all that the holder has.
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
        # A function that is sent by value takes along the modules whose names it uses: losses, CoSENTLoss.
        return importlib.import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        return self._parts or dir(importlib.import_module(self._holder))
