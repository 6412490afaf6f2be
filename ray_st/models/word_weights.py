"""Weights of words, such as inverse document frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from ray_st.models.module import Features
from ray_st.models.weighted import WeightedModule


def weights_of(vocab: Sequence[str], word_weights: Mapping[str, float], otherwise: float) -> list[float]:
    """The weight of each word: its own, else that of its lower-case form, else ``otherwise``."""
    return [float(word_weights.get(word, word_weights.get(word.lower(), otherwise))) for word in vocab]


class WordWeights(WeightedModule):
    """Multiplies each token's vector by a weight of the token.

    A mean over tokens afterwards is a weighted mean.

    Args:
        vocab: The tokenizer's words, in the order of their ids.
        word_weights: Weights of words; may lack some and have others.
        unknown_word_weight: Weight of words that it lacks.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("vocab", "word_weights", "unknown_word_weight")

    def __init__(
        self, vocab: Sequence[str], word_weights: Mapping[str, float], unknown_word_weight: float = 1
    ) -> None:
        super().__init__()
        self.vocab = list(vocab)
        self.word_weights = dict(word_weights)
        self.unknown_word_weight = unknown_word_weight
        weights = torch.tensor(weights_of(self.vocab, self.word_weights, unknown_word_weight))
        self.emb_layer = nn.Embedding.from_pretrained(weights.unsqueeze(1), freeze=False)

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d) weighted, and their sum ``token_weights_sum`` (n,)."""
        ids = features["input_ids"]
        self._check(int(ids.max()) if ids.numel() else 0)
        weights = self.emb_layer(ids).squeeze(-1) * features["attention_mask"]
        weighted = features["token_embeddings"] * weights.unsqueeze(-1)
        return {**features, "token_embeddings": weighted, "token_weights_sum": weights.sum(dim=1)}

    def _check(self, greatest: int) -> None:
        if greatest >= len(self.vocab):
            raise ValueError(
                f"WordWeights has {len(self.vocab)} words in vocab, and there is a token with id {greatest}: vocab must "
                "be the tokenizer's words in the order of their ids."
            )
