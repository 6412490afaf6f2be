"""Losses for embeddings that work at several dimensions, and several depths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ray_st.losses.adaptive_layer import AdaptiveLayerLoss
from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import embedding_dimension
from ray_st.losses.modifier import Modifier
from ray_st.losses.parts import Value, weighted_sum
from ray_st.util.tensors import normalize_embeddings, truncate_embeddings

logger = logging.getLogger(__name__)


class MatryoshkaLoss(Modifier):
    """Sum of a loss over embeddings truncated to several dimensions and normalised.

    The model runs once. Labels that are embeddings of the model's dimension are truncated too. Weights of the
    loss, such as a classifier, are shared by all dimensions; missing ones count as zero.

    Inputs and labels: those of the loss.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        loss: Any loss, cached ones and modifiers among them.
        matryoshka_dims: Dimensions to train, each from 1 to d; d should be among them.
        matryoshka_weights: Factor on the loss of each; 1 by default.
        n_dims_per_step: How many of the dimensions to use in a step, sampled at random; -1 for all. The
            sample is the same on every rank and depends only on the number of steps.

    Raises:
        ValueError: If there are no dimensions, one is out of range, or the number of weights differs.

    References:
        Kusupati et al. 2022, arXiv:2205.13147.
    """

    shown = ("matryoshka_dims", "matryoshka_weights", "n_dims_per_step")
    cites = ("kusupati2024matryoshka",)

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(model, loss)
        weights = [1] * len(matryoshka_dims) if matryoshka_weights is None else matryoshka_weights
        self._check(matryoshka_dims, weights)
        pairs = sorted(zip(matryoshka_dims, weights, strict=True), key=lambda pair: -pair[0])
        self.matryoshka_dims = tuple(dim for dim, _ in pairs)
        self.matryoshka_weights = tuple(weight for _, weight in pairs)
        self.n_dims_per_step = n_dims_per_step

    def _check(self, dims: Sequence[int], weights: Sequence[float]) -> None:
        if not dims or len(dims) != len(weights) or min(dims) < 1:
            raise ValueError(
                "matryoshka_dims must hold at least one dimension, each at least 1, and matryoshka_weights "
                f"as many weights; got {list(dims)} and {list(weights)}."
            )
        full = embedding_dimension(self.model)
        if full is not None and max(dims) > full:
            raise ValueError(f"matryoshka_dims must be at most the model's {full}; got {max(dims)}.")
        if full is not None and full not in dims:
            logger.warning(
                "The model's dimension %d is not among matryoshka_dims %s: untruncated embeddings are not "
                "trained.",
                full,
                list(dims),
            )

    def compute(self, columns: Columns) -> Value:
        """Weighted sum of the loss at the chosen dimensions."""
        return weighted_sum(
            (self.matryoshka_weights[i], self.loss.compute(self._cut(columns, self.matryoshka_dims[i])))
            for i in self._choose()
        )

    def skip(self) -> None:
        """Counts the sample, and the inner loss's computations."""
        for _ in self._choose():
            self.loss.skip()

    def _choose(self) -> list[int]:
        return self.choose(len(self.matryoshka_dims), self.n_dims_per_step)

    def _cut(self, columns: Columns, dim: int) -> Columns:
        full = columns.mine[0].shape[-1]

        def cut(labels: Tensor | None) -> Tensor | None:
            wide = labels is not None and labels.ndim > 1 and labels.shape[-1] == full
            return labels[..., :dim] if wide and labels is not None else labels

        columns = replace(columns, labels=cut(columns.labels), pool_labels=cut(columns.pool_labels))
        return columns.map(lambda rows: normalize_embeddings(truncate_embeddings(rows, dim)))


class Matryoshka2dLoss(AdaptiveLayerLoss):
    """:class:`AdaptiveLayerLoss` of a :class:`MatryoshkaLoss`: fewer layers and fewer dimensions.

    Inputs and labels: those of the loss.

    Args:
        model: A SentenceTransformer whose first module holds an encoder of transformers.
        loss: Any loss, cached ones among them.
        matryoshka_dims: As for :class:`MatryoshkaLoss`.
        matryoshka_weights: As for :class:`MatryoshkaLoss`.
        n_layers_per_step: As for :class:`AdaptiveLayerLoss`.
        n_dims_per_step: As for :class:`MatryoshkaLoss`; sampled anew for each layer.
        last_layer_weight: As for :class:`AdaptiveLayerLoss`.
        prior_layers_weight: As for :class:`AdaptiveLayerLoss`.
        kl_div_weight: As for :class:`AdaptiveLayerLoss`.
        kl_temperature: As for :class:`AdaptiveLayerLoss`.
        layer_weighting: As for :class:`AdaptiveLayerLoss`.

    References:
        Li et al. 2024, arXiv:2402.14776.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_layers_per_step: int = 1,
        n_dims_per_step: int = 1,
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_div_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: str | Callable[[int], float] = "uniform",
    ) -> None:
        super().__init__(
            model,
            MatryoshkaLoss(model, loss, matryoshka_dims, matryoshka_weights, n_dims_per_step),
            n_layers_per_step,
            last_layer_weight,
            prior_layers_weight,
            kl_div_weight,
            kl_temperature,
            layer_weighting,
        )

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {**super().get_config_dict(), **self.loss.get_config_dict()}
