"""Parts that a lower layer uses without knowing their provider; the root package registers providers."""

from __future__ import annotations

import importlib
from typing import Any

_PROVIDERS: dict[str, tuple[str, str]] = {}


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
