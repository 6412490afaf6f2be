"""Margin loss against the hardest negative of a large batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss
from ray_st.losses.tiles import mean_in_tiles
from ray_st.util.similarity import cos_sim


class MegaBatchMarginLoss(Loss):
    r"""Wants positives above one cosine and the most similar other positive of the batch below another.

    :math:`\max(0, m_p - \cos(a_i, p_i)) + \max(0, \max_{j \ne i} \cos(a_i, p_j) - m_n)`, the mean over anchors. The
    larger the batch, the harder the negatives: 500 and more.

    Inputs: (anchor, positive); no labels. Use ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        positive_margin: The cosine :math:`m_p` that positives should reach.
        negative_margin: The cosine :math:`m_n` that negatives should not pass.
        use_mini_batched_version: Whether to use the gradient cache, for large batches in little memory; value and
            gradient are the same.
        mini_batch_size: Most rows, of both columns, that go through the model at a time.
        mini_batch_num_tokens: Most padded tokens at a time, instead of rows.
        show_progress_bar: Whether to show the progress of a step.
        gather_across_devices: Whether negatives are looked for on all ranks.

    References:
        Wieting and Gimpel 2018, arXiv:1711.05732.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    in_batch_negatives: bool = True

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
        own = torch.arange(len(columns.mine[0]), device=scores.device)[rows] + columns.offset
        own = own[:, None]
        hardest = scores.scatter(1, own, -torch.inf).max(dim=1).values
        return F.relu(self.positive_margin - scores.gather(1, own)[:, 0]) + F.relu(
            hardest - self.negative_margin
        )

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        margins = {"positive_margin": self.positive_margin, "negative_margin": self.negative_margin}
        return {**margins, **self.cache_config()}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@inproceedings{wieting-gimpel-2018-paranmt,
    title = {{P}ara{NMT}-50{M}: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine
             Translations},
    author = {Wieting, John and Gimpel, Kevin},
    booktitle = {Proceedings of the 56th Annual Meeting of the Association for Computational Linguistics},
    year = {2018},
    url = {https://aclanthology.org/P18-1042},
    doi = {10.18653/v1/P18-1042},
    pages = {451--462},
}
"""
