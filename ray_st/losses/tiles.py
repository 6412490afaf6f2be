"""Losses over many candidates, a few rows at a time, with memory linear in the pool."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE_SCORES = 2**24
"""Most similarities held at a time: 64 MiB of float32, about four times that with intermediate results.

Smaller batches, such as 4,096 anchors with 4,096 candidates, are computed at once. Above that, rows are
processed in tiles whose similarities are recomputed in the backward pass. Tiles of 32 MiB or less would come
from glibc's heap, which then grew with the square of the pool: 7.2 GiB instead of 0.5 for 32,768 candidates.
"""


def mean_in_tiles(
    losses: Callable[[slice], Tensor], rows: int, width: int, tile_scores: int = TILE_SCORES
) -> Tensor:
    """Mean of the losses of rows, each a function of similarities to all candidates.

    Equal to ``losses(slice(0, rows)).mean()``, value and gradient. Works for any similarity function whose
    value for two embeddings does not depend on other rows.

    Args:
        losses: Maps a slice of rows to their losses (k,); called again in the backward pass.
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
    return checkpoint(lambda: losses(rows).sum(), use_reentrant=False, preserve_rng_state=False)
