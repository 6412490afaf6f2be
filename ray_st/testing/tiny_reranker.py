"""Models of pairs small enough for float64 and many cases, and pairs of tokens to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.testing.tiny_encoder import DIM, Features, TinyEncoder


class TinyReranker(nn.Module):
    """The scores of a linear layer on :class:`ray_st.testing.TinyEncoder`.

    Args:
        num_labels: Number of scores for each pair.
        seed: Seed of the weights.
    """

    def __init__(self, num_labels: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.encoder = TinyEncoder(seed)
        self.head = nn.Linear(DIM, num_labels)
        self.double()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed + 1)
            self.head.weight.copy_(torch.randn(num_labels, DIM, generator=generator))
            self.head.bias.zero_()

    @property
    def calls(self) -> list[tuple[int, ...]]:
        """Shape of ``input_ids`` of each call so far."""
        return self.encoder.calls

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> Features:
        """Features of pairs of texts of words ``w0`` to ``w39``.

        Args:
            pairs: Queries and documents.
        """
        queries, documents = (list(texts) for texts in zip(*pairs, strict=True))
        return dict(self.encoder.tokenizer(queries, documents, padding=True, return_tensors="pt"))

    def forward(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Gives ``scores`` (n, num_labels)."""
        return {"scores": self.head(self.encoder(features)["sentence_embedding"])}


class GivenLogits(nn.Module):
    """A model whose logits are its weights: pair p gets row p.

    Args:
        logits: (P, k).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.num_labels = logits.shape[1]
        self.logits = nn.Parameter(logits.detach().clone())

    @property
    def features(self) -> Features:
        """Features of all pairs."""
        ids = torch.arange(len(self.logits))[:, None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def forward(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Gives ``scores`` (n, k)."""
        return {"scores": self.logits[features["input_ids"][:, 0]]}
