"""In-batch negatives ranking loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.base import Columns, Loss, at_least_float32, function_name
from ray_st.util.similarity import cos_sim


class MultipleNegativesRankingLoss(Loss):
    r"""Cross entropy of finding each anchor's positive among all positives and negatives of the batch (InfoNCE).

    For anchors :math:`a_i`, candidates :math:`c_j` (first the positives, then each column of negatives) and scale
    :math:`s`: :math:`-\frac{1}{n} \sum_i \log \frac{\exp(s \cdot sim(a_i, c_i))}{\sum_j \exp(s \cdot sim(a_i, c_j))}`.

    Inputs: (anchor, positive), (anchor, positive, negative) or (anchor, positive, negative_1, ..., negative_n); no
    labels. Duplicates in a batch are false negatives: use ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities, the inverse of a temperature; more than 0.
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m). For dot products use a scale of 1.
        gather_across_devices: Whether the candidates of all ranks are negatives, as if the batch were on one device.

    Raises:
        ValueError: If the scale is not more than 0.

    References:
        Oord, Li and Vinyals 2018, arXiv:1807.03748; Henderson et al. 2017, arXiv:1705.00652, section 4.4.
    """

    text_columns: ClassVar[tuple[int, int | None]] = (2, None)

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        if not scale > 0:
            raise ValueError(f"scale must be more than 0; got {scale}.")
        self.scale = scale
        self.similarity_fct = similarity_fct

    def compute(self, columns: Columns) -> Tensor:
        """Mean cross entropy of this rank's anchors over the pool's candidates."""
        anchors = columns.mine[0]
        scores = self.similarity_fct(anchors, torch.cat(columns.pool[1:])) * self.scale
        positives = torch.arange(columns.offset, columns.offset + len(anchors), device=scores.device)
        return F.cross_entropy(at_least_float32(scores), positives)

    @property
    def temperature(self) -> float:
        """The inverse of the scale."""
        return 1.0 / self.scale

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {
            "scale": self.scale,
            "similarity_fct": function_name(self.similarity_fct),
            "gather_across_devices": self.gather_across_devices,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@misc{oord2019representation,
    title = {Representation Learning with Contrastive Predictive Coding},
    author = {van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol},
    year = {2019},
    eprint = {1807.03748},
    archivePrefix = {arXiv},
}
"""
