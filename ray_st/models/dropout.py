"""Dropout on the embedding, while training."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ray_st.models.module import Features, Module


class Dropout(Module):
    """Sets a share of the embedding's values to zero while training, and scales the others up.

    Args:
        dropout: The share, from 0 to 1.

    Raises:
        ValueError: If it is outside that range.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("dropout",)

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, d) after dropout."""
        return {**features, "sentence_embedding": self.dropout_layer(features["sentence_embedding"])}
