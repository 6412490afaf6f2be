"""Encoding shared by all ranks, for evaluators: a model's batches are dealt out and the results exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from ray_st.training.collectives import gather_objects
from ray_st.world import World


@contextmanager
def dealt_encoding(model: Any, world: World) -> Iterator[None]:
    """Lets ``model.encode`` share its work among ranks for as long as the context is open.

    All ranks must encode the same texts in the same order; each gets all embeddings, the same to the last bit as one
    process gets, because the batches are the same and only who runs them differs.

    Args:
        model: A model with an exchangeable ``batch_runner``; another one encodes everything on every rank.
        world: This process's place.
    """
    if world.size == 1 or not hasattr(model, "batch_runner"):
        yield
        return
    alone = model.batch_runner
    model.batch_runner = DealtRunner(world, model.device)
    try:
        yield
    finally:
        model.batch_runner = alone


class DealtRunner:
    """Runs every ``size``-th batch and exchanges the results.

    Batches come sorted by length, so that neighbours cost about the same and so do the ranks' shares.

    Args:
        world: This process's place.
        device: Where this process wants the results; they travel through main memory, as devices have other names
            elsewhere.
    """

    def __init__(self, world: World, device: Any = "cpu") -> None:
        self._world, self._device = world, device

    def __call__(self, batches: Sequence[np.ndarray], embed: Callable[[np.ndarray], Any]) -> list[Any]:
        """Results of all batches, in their order."""
        rank, size = self._world.rank, self._world.size
        shares = gather_objects([_moved(embed(batch), "cpu") for batch in batches[rank::size]])
        results: list[Any] = [None] * len(batches)
        for owner, share in enumerate(shares):
            results[owner::size] = _moved(share, self._device)
        return results


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return {key: _moved(part, device) for key, part in value.items()} if isinstance(value, dict) else value
