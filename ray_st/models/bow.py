"""Bags of words: one dimension per word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ray_st.models.module import Features, LoadOptions, Module, from_config, read_config
from ray_st.models.token_layers import weights_of
from ray_st.models.tokenizer.word import WhitespaceTokenizer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class BoW(Module):
    """Embeds a text as the weights of the words in it; words outside the vocabulary are ignored.

    Args:
        vocab: The words; repeated ones count once.
        word_weights: Weight of each word, for tf-idf.
        unknown_word_weight: Weight of words without one.
        cumulative_term_frequency: Whether a word counts as often as it occurs, or only once.

    Raises:
        ValueError: If there are no words.
    """

    config_keys: ClassVar = ("vocab", "word_weights", "unknown_word_weight", "cumulative_term_frequency")

    def __init__(
        self,
        vocab: Sequence[str],
        word_weights: Mapping[str, float] | None = None,
        unknown_word_weight: float = 1,
        cumulative_term_frequency: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(vocab, str) or not vocab:
            raise ValueError(f"BoW needs a vocab, a list of words; got {vocab!r:.80}.")
        self.vocab = list(dict.fromkeys(vocab))
        self.word_weights = dict(word_weights or {})
        self.unknown_word_weight = unknown_word_weight
        self.cumulative_term_frequency = cumulative_term_frequency
        self.weights = weights_of(self.vocab, self.word_weights, unknown_word_weight)
        self.tokenizer = WhitespaceTokenizer(self.vocab, stop_words=(), do_lower_case=False)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``sentence_embedding`` (n, words) of n texts: it is complete before the model runs."""
        words = [self.tokenizer.tokenize(text) for text in texts]
        rows = torch.tensor([row for row, ids in enumerate(words) for _ in ids], dtype=torch.long)
        columns = torch.tensor([word for ids in words for word in ids], dtype=torch.long)
        counts = torch.zeros(len(words), len(self.vocab))
        counts.index_put_((rows, columns), torch.ones(len(rows)), accumulate=self.cumulative_term_frequency)
        return {"sentence_embedding": counts * torch.tensor(self.weights)}

    def forward(self, features: Features) -> Features:
        """The features, unchanged."""
        return features

    def get_embedding_dimension(self) -> int:
        """Number of words."""
        return len(self.vocab)

    get_sentence_embedding_dimension = get_embedding_dimension

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder.

        Raises:
            ModelFolderError: If settings are missing or invalid.
        """
        return from_config(cls, Path(folder), read_config(cls, Path(folder)))
