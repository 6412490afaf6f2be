"""Regulariser that spreads embeddings over the space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32, check_choice
from ray_st.losses.loss import Loss
from ray_st.util.similarity import cos_sim


class GlobalOrthogonalRegularizationLoss(Loss):
    r"""Pushes the similarities of unrelated texts towards the mean and spread of random directions.

    With s the similarities between different rows of a column: ``gor_mean`` is :math:`\bar{s}^2`,
    ``gor_second_moment`` is :math:`\max(0, \overline{s^2} - 1/d)`. To be added to another loss; the
    value is a dictionary of the two parts.

    Inputs: any number of text columns; no labels.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m).
        mean_weight: Factor on the first part; 0 or None omits it.
        second_moment_weight: Factor on the second part; 0 or None omits it.
        aggregation: ``"mean"`` or ``"sum"`` over the columns.
        gather_across_devices: Whether to compare the rows of all ranks; each rank then computes the loss of
            the whole pool.

    Raises:
        ValueError: If both parts are omitted, or the aggregation is unknown.

    References:
        Zhang et al. 2017, arXiv:1708.06320; with sums in Schechter Vera et al. 2025, arXiv:2509.20354.
    """

    shown = ("similarity_fct", "mean_weight", "second_moment_weight", "aggregation")
    cites = ("zhang2017learning",)

    def __init__(
        self,
        model: nn.Module,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        mean_weight: float | None = 1.0,
        second_moment_weight: float | None = 1.0,
        aggregation: str = "mean",
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        check_choice("aggregation", aggregation, ("mean", "sum"))
        if not mean_weight and not second_moment_weight:
            raise ValueError("At least one of mean_weight and second_moment_weight must not be 0.")
        self.similarity_fct = similarity_fct
        self.mean_weight = mean_weight
        self.second_moment_weight = second_moment_weight
        self.aggregation = aggregation
        weights = {"gor_mean": mean_weight, "gor_second_moment": second_moment_weight}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.parts = tuple(self.weights)

    def compute(self, columns: Columns) -> dict[str, Tensor]:
        """The parts, of the whole pool."""
        terms = torch.stack([self._terms(rows) for rows in columns.pool])
        both = terms.sum(0) if self.aggregation == "sum" else terms.mean(0)
        found = dict(zip(("gor_mean", "gor_second_moment"), both.unbind(), strict=True))
        return {name: weight * found[name] for name, weight in self.weights.items()}

    def _terms(self, rows: Tensor) -> Tensor:
        count, dimension = rows.shape
        scores = at_least_float32(self.similarity_fct(rows, rows))
        scores = scores.masked_fill(torch.eye(count, dtype=torch.bool, device=rows.device), 0)
        pairs = max(1, count * (count - 1))
        second_moment = scores.pow(2).sum() / pairs
        return torch.stack([(scores.sum() / pairs).pow(2), torch.relu(second_moment - 1 / dimension)])
