"""Seeded randomness, also in the worker processes of a ``DataLoader``."""

from __future__ import annotations

import numpy as np
from torch.utils.data import get_worker_info


def draw(seed: int, *place: int) -> np.random.Generator:
    """A generator for one position in an epoch, the same in each worker process of a ``DataLoader``.

    Worker processes lose their counters between epochs, so torch's base seed, which changes each epoch, is
    used there too. ``torch.manual_seed`` makes it reproducible.

    Args:
        seed: A dataset's own seed.
        *place: More numbers to seed with: the epoch, the row.
    """
    worker = get_worker_info()
    base = 0 if worker is None else worker.seed - worker.id
    return np.random.default_rng([seed % 2**64, base % 2**64, *place])
