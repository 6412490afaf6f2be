"""Optional packages."""

from __future__ import annotations

import importlib
from types import ModuleType


def load_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module of a package that one of ray_st's extras installs.

    Args:
        module: Name of the module.
        extra: The extra that includes it.
        purpose: What needs it, for the error message.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}, which is not installed: pip install "
            f"'ray-st[{extra}]'."
        ) from error
