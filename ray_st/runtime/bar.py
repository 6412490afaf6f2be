"""A progress bar that a worker moves and the driver's terminal shows."""

from __future__ import annotations

from typing import Any

from ray.experimental.tqdm_ray import tqdm


def open_bar(steps: int) -> Any:
    """A bar of so many steps."""
    return tqdm(total=steps, desc="training", unit="step")
