"""Chance that a seed decides, also in the worker processes of a ``DataLoader``."""

from __future__ import annotations

import numpy as np
from torch.utils.data import get_worker_info


def draw(seed: int, *place: int) -> np.random.Generator:
    """A generator for one place in an epoch, the same in each worker process of a ``DataLoader``.

    Worker processes forget between epochs what they counted; torch gives them another base seed each epoch, which is
    part of what decides there. ``torch.manual_seed`` makes it the same again.

    Args:
        seed: A dataset's own seed.
        *place: What else decides: the epoch, the row.
    """
    worker = get_worker_info()
    base = 0 if worker is None else worker.seed - worker.id
    return np.random.default_rng([seed % 2**64, base % 2**64, *place])
