"""A recurrent network over the tokens of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ray_st.models.module import Features
from ray_st.models.weighted import WeightedModule


class LSTM(WeightedModule):
    """Replaces each token's vector by the state of an LSTM after reading it, in both directions by default.

    Padding, on either side, is not read: an embedding does not depend on the texts that share the batch.

    Args:
        word_embedding_dimension: Dimension of a token's vector.
        hidden_dim: Dimension of the state in one direction.
        num_layers: Layers, each of which reads the states of the one before.
        dropout: Share of values set to zero between layers while training.
        bidirectional: Whether a second LSTM reads from the end; its states are laid beside those of the first.
    """

    config_file_name: ClassVar[str] = "lstm_config.json"
    config_keys: ClassVar[tuple[str, ...]] = (
        "word_embedding_dimension",
        "hidden_dim",
        "num_layers",
        "dropout",
        "bidirectional",
    )
    config_renames: ClassVar[Mapping[str, str]] = {"embedding_dimension": "word_embedding_dimension"}

    def __init__(
        self,
        word_embedding_dimension: int,
        hidden_dim: int,
        num_layers: int = 1,
        dropout: float = 0,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.word_embedding_dimension = word_embedding_dimension
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.encoder = nn.LSTM(
            word_embedding_dimension,
            hidden_dim,
            num_layers=num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            batch_first=True,
        )

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d) as states (n, t, hidden_dim x directions)."""
        vectors, real = features["token_embeddings"], features["attention_mask"].bool()
        order = (~real).int().argsort(dim=1, stable=True)  # real tokens first, in their order
        lengths = real.sum(dim=1).clamp(min=1).cpu()  # packing knows no empty text
        packed = pack_padded_sequence(
            _reorder(vectors, order), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(
            self.encoder(packed)[0], batch_first=True, total_length=vectors.shape[1]
        )
        return {**features, "token_embeddings": _reorder(states, order.argsort(dim=1))}

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's new vector."""
        return self.hidden_dim * (2 if self.bidirectional else 1)

    get_word_embedding_dimension = get_embedding_dimension


def _reorder(vectors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return vectors.gather(1, order.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))
