"""Ranking loss over pairs with scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32, function_name
from ray_st.losses.loss import Loss
from ray_st.util.similarity import pairwise_cos_sim


class CoSENTLoss(Loss):
    r"""Punishes every two pairs whose similarities are in the wrong order of their labels.

    With :math:`s_i` the similarity of pair i and :math:`y_i` its label:
    :math:`\log (1 + \sum_{y_i < y_j} \exp(scale \cdot (s_i - s_j)))`. Only the order of the labels counts.

    Inputs: (input_A, input_B) with a float score as label.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities, the inverse of a temperature.
        similarity_fct: Maps (n, d) and (n, d) to the similarities of the pairs (n,).
        gather_across_devices: Whether pairs are compared with those of all ranks, as if the batch were on one device;
            each rank then computes the loss of the whole pool.

    References:
        Huang et al. 2024, doi:10.1109/TASLP.2024.3402087.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "float score"
    different_labels: int = 2

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        self.scale = scale
        self.similarity_fct = similarity_fct

    def compute(self, columns: Columns) -> Tensor:
        """Loss of all pairs of the pool, in n log n time and linear memory."""
        assert columns.pool_labels is not None  # check_labels saw to it
        scores = at_least_float32(self.similarity_fct(*columns.pool)) * self.scale
        negated, order = (-columns.pool_labels).sort()
        scores = scores[order]
        # Pair i must stay below the first above[i] pairs of this order: their logsumexp is a running one.
        above = torch.searchsorted(negated, negated)
        running = torch.cat([scores.new_full((1,), -torch.inf), torch.logcumsumexp(-scores, dim=0)])
        return torch.logsumexp(torch.cat([scores.new_zeros(1), scores + running[above]]), dim=0)

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {"scale": self.scale, "similarity_fct": function_name(self.similarity_fct)}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@article{huang2024cosent,
    title = {CoSENT: Consistent Sentence Embedding via Similarity Ranking},
    author = {Huang, Xiang and Peng, Hao and Zou, Dongcheng and Liu, Zhiwei and Li, Jianxin and Liu, Kay and Wu, Jia
              and Su, Jianlin and Yu, Philip S.},
    journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
    year = {2024},
    doi = {10.1109/TASLP.2024.3402087},
}
"""
