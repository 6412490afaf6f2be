"""Checks of which optional packages are installed."""

from __future__ import annotations

from importlib.util import find_spec


def is_training_available() -> bool:
    """Whether the packages for training are installed: accelerate and datasets."""
    return all(find_spec(package) is not None for package in ("accelerate", "datasets"))
