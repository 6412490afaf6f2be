"""Losses over many candidates, a few rows at a time: memory linear in the pool, not quadratic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE_SCORES = 2**24
"""Most similarities that a loss holds at a time: 64 MiB of float32, some four times that with what is made of them.

A batch up to it, such as 4,096 anchors with 4,096 candidates, is computed at once. Above it rows are taken in tiles
whose similarities are computed again in the backward pass. Tiles of 32 MiB and less would be carved out of glibc's heap,
which then grew with the square of the pool: 7.2 GiB instead of 0.5 for 32,768 candidates.
"""


def mean_in_tiles(
    losses: Callable[[slice], Tensor], rows: int, width: int, tile_scores: int = TILE_SCORES
) -> Tensor:
    """Mean of the losses of rows, each a function of similarities to all candidates.

    Equal to ``losses(slice(0, rows)).mean()``, value and gradient. Any similarity function will do whose value for two
    embeddings does not depend on the other rows.

    Args:
        losses: Gives the losses (k,) of some rows; called again in the backward pass.
        rows: Number of rows n.
        width: Number of similarities that a row needs.
        tile_scores: Most similarities at a time; a tile has at least one row.
    """
    tile = max(1, tile_scores // max(1, width))
    if tile >= rows:
        return losses(slice(0, rows)).mean()
    starts = range(0, rows, tile)
    sums = [_sum(losses, slice(start, min(start + tile, rows))) for start in starts]
    return torch.stack(sums).sum() / rows


def _sum(losses: Callable[[slice], Tensor], rows: slice) -> Tensor:
    if not torch.is_grad_enabled():
        return losses(rows).sum()
    result: Tensor = checkpoint(lambda: losses(rows).sum(), use_reentrant=False, preserve_rng_state=False)
    return result
