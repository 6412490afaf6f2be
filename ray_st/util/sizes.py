"""Checks of sizes and counts."""

from __future__ import annotations


def check_at_least_one(**sizes: int) -> None:
    """Checks that sizes are at least 1.

    Args:
        sizes: The sizes by argument name.

    Raises:
        ValueError: Naming the first that is smaller.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}.")
