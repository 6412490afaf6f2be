"""What is installed."""

from __future__ import annotations

from importlib.util import find_spec


def is_training_available() -> bool:
    """Whether what training needs beyond encoding is installed: the packages accelerate and datasets."""
    return all(find_spec(package) is not None for package in ("accelerate", "datasets"))
