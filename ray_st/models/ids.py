"""Token ids and padded batches for tokenizers other than those of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_st.models.tokens import TokenEncoder


@dataclass(frozen=True)
class WordEncoder(TokenEncoder):
    """A :class:`ray_st.models.tokenizer.WordTokenizer` with the longest text, in words."""

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [self.tokenizer.tokenize(text)[: self.max_seq_length] for text in texts]

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded with 0 on the right, one column wide at least.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids`` and ``attention_mask`` (n, t), ``sentence_lengths`` (n,): int64.
        """
        batch = pad_right(ids)
        return {**batch, "sentence_lengths": batch["attention_mask"].sum(dim=1)}

    def prompt_length(self, prompt: str) -> int:
        """Number of ids that a prompt puts before a text."""
        return len(self([prompt])[0])


@dataclass(frozen=True)
class PieceEncoder(TokenEncoder):
    """A ``tokenizers.Tokenizer``, which truncates texts itself; special tokens are not added."""

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [row.ids for row in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded with 0 on the right, one column wide at least.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids`` and ``attention_mask``: int64 (n, t).
        """
        return pad_right(ids)

    def prompt_length(self, prompt: str) -> int:
        """Number of ids that a prompt puts before a text."""
        return len(self([prompt])[0])


def pad_right(ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """``input_ids``, with 0 for padding, and ``attention_mask``: int64 (n, t) with t at least 1."""
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    real = np.arange(lengths.max(initial=1)) < lengths[:, None]
    tokens = np.zeros(real.shape, dtype=np.int64)
    if len(ids):
        tokens[real] = np.concatenate(ids)
    return {
        "input_ids": torch.from_numpy(tokens),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
    }
