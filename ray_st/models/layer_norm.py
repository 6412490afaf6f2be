"""Layer normalisation of the embedding."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ray_st.models.module import Features
from ray_st.models.weighted import WeightedModule


class LayerNorm(WeightedModule):
    """Shifts and scales each embedding to mean 0 and variance 1, then by learnt weights.

    Args:
        dimension: Dimension of the embedding.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("dimension",)

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, dimension) normalised."""
        return {**features, "sentence_embedding": self.norm(features["sentence_embedding"])}

    def get_embedding_dimension(self) -> int:
        """Dimension of the embedding."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension
