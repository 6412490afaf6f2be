"""A learnt mixture of an encoder's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ray_st.models.module import Features
from ray_st.models.weighted import WeightedModule


class WeightedLayerPooling(WeightedModule):
    """Replaces each token's vector by the weighted mean of what the encoder's layers made of it.

    The encoder must give all of its layers: ``Transformer(..., config_args={"output_hidden_states": True})``. Without
    them, token vectors stay as they are.

    Args:
        word_embedding_dimension: Dimension of a token's vector.
        num_hidden_layers: Layers of the encoder.
        layer_start: The first layer that counts; 0 is the one before the first (the token embeddings).
        layer_weights: (num_hidden_layers + 1 - layer_start,), the weights to start from; ones by default.

    Raises:
        ValueError: If there are no layers from ``layer_start`` on, or weights are of another number.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("word_embedding_dimension", "layer_start", "num_hidden_layers")
    config_renames: ClassVar[Mapping[str, str]] = {"embedding_dimension": "word_embedding_dimension"}

    def __init__(
        self,
        word_embedding_dimension: int,
        num_hidden_layers: int = 12,
        layer_start: int = 4,
        layer_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.word_embedding_dimension = word_embedding_dimension
        self.layer_start = layer_start
        self.num_hidden_layers = num_hidden_layers
        count = num_hidden_layers + 1 - layer_start
        if layer_start < 0 or count < 1:
            raise ValueError(f"layer_start must be from 0 to {num_hidden_layers}; got {layer_start}.")
        weights = torch.ones(count) if layer_weights is None else layer_weights.detach().clone()
        if weights.shape != (count,):
            raise ValueError(
                f"layer_weights must be {count} numbers, one a layer from layer {layer_start} on; got the shape "
                f"{tuple(weights.shape)}."
            )
        self.layer_weights = nn.Parameter(weights)

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d) from ``all_layer_embeddings``, a sequence of such."""
        layers = features.get("all_layer_embeddings")
        if layers is None:
            return features
        if len(layers) != self.num_hidden_layers + 1:
            raise ValueError(
                f"WeightedLayerPooling has num_hidden_layers={self.num_hidden_layers}, the encoder gave "
                f"{len(layers) - 1} layers and its token embeddings."
            )
        weighted = torch.einsum("l,lntd->ntd", self.layer_weights, torch.stack(layers[self.layer_start :]))
        return {**features, "token_embeddings": weighted / self.layer_weights.sum()}

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's vector."""
        return self.word_embedding_dimension

    get_word_embedding_dimension = get_embedding_dimension
