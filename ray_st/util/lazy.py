"""Packages that name their parts without loading them (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_module(
    package: str, table: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the three names by which a package offers parts that are loaded at their first use.

    Use it as ``__getattr__, __dir__, __all__ = lazy_module(__name__, {"Part": "package.file"})``.

    Args:
        package: ``__name__`` of the package.
        table: Each public name and the full name of the module that holds it. A name whose module is
            ``package.name`` itself stands for that module.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__`` (sorted) for the package.
    """

    def load(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(table[name])
        value = module if table[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next use finds it at once
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *table})

    return load, names, sorted(table)
