"""Margin loss against the hardest negative of a large batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss
from ray_st.losses.tiles import mean_in_tiles
from ray_st.util.similarity import cos_sim


class MegaBatchMarginLoss(Loss):
    r"""Pushes positives above one cosine, and the most similar other positive of the batch below another.

    :math:`\max(0, m_p - \cos(a_i, p_i)) + \max(0, \max_{j \ne i} \cos(a_i, p_j) - m_n)`, the mean over
    anchors. Larger batches give harder negatives: use 500 rows or more.

    Inputs: (anchor, positive); no labels. Use ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        positive_margin: The cosine :math:`m_p` that positives should reach.
        negative_margin: The cosine :math:`m_n` that negatives should not exceed.
        use_mini_batched_version: Whether to use the gradient cache, for large batches in little memory; value
            and gradient are the same.
        mini_batch_size: Most rows per call of the model, counted over both columns; without padding, and on
            accelerators, as many tokens as so many of the longest rows have.
        mini_batch_num_tokens: Most padded tokens per call, instead of rows.
        show_progress_bar: Whether to show progress within a step.
        gather_across_devices: Whether to look for negatives on all ranks.

    References:
        Wieting and Gimpel 2018, arXiv:1711.05732.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    in_batch_negatives: bool = True
    shown = ("positive_margin", "negative_margin", "mini_batch_size", "mini_batch_num_tokens")
    cites = ("wieting-gimpel-2018-paranmt",)

    def __init__(
        self,
        model: nn.Module,
        positive_margin: float = 0.8,
        negative_margin: float = 0.3,
        use_mini_batched_version: bool = True,
        mini_batch_size: int = 50,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        if use_mini_batched_version:
            self.cache(mini_batch_size, mini_batch_num_tokens, show_progress_bar)

    def compute(self, columns: Columns) -> Tensor:
        """Mean over this rank's anchors, with the pool's positives as negatives."""
        rows, width = len(columns.mine[0]), len(columns.pool[1])
        return mean_in_tiles(lambda part: self._losses(columns, part), rows, width, self.tile_scores)

    def _losses(self, columns: Columns, rows: slice) -> Tensor:
        scores = cos_sim(columns.mine[0][rows], columns.pool[1])
        own = columns.own(rows)[:, None]
        hardest = scores.scatter(1, own, -torch.inf).max(dim=1).values
        return F.relu(self.positive_margin - scores.gather(1, own)[:, 0]) + F.relu(
            hardest - self.negative_margin
        )
