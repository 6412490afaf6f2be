"""Parts that a lower layer uses without knowing who provides them; the root package says who does."""

from __future__ import annotations

import importlib
from typing import Any

_PROVIDERS: dict[str, tuple[str, str]] = {}


def provide(port: str, module: str, name: str) -> None:
    """Says who provides a part; the module is loaded at its first use.

    Args:
        port: What lower layers call it.
        module: The full name of the module that holds it.
        name: Its name there.
    """
    _PROVIDERS[port] = (module, name)


def use(port: str) -> Any:
    """The part that is provided under a name."""
    module, name = _PROVIDERS[port]
    return getattr(importlib.import_module(module), name)
