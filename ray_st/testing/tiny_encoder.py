"""A model of a few weights, small enough for float64 and many cases, with columns of tokens to embed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

WORDS, DIM = 40, 6
"""Number of words that the encoder knows, and of dimensions of its embeddings."""

Features = dict[str, Any]
"""Features of one text column: ``input_ids`` (n, t), ``attention_mask`` (n, t) and so on."""


@cache
def word_tokenizer(first: str = "w") -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words ``w0`` to ``w39``, separated by spaces.

    Args:
        first: The letter that every word begins with.
    """
    words = {f"{first}{number}": number for number in range(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token=f"{first}0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=f"{first}0")


class TinyEncoder(nn.Module):
    """Attention over word vectors, then their mean: every token sees every other, padding is masked.

    Args:
        seed: Seed of the weights.

    Attributes:
        calls: Shape of ``input_ids`` of each call so far.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.words = nn.Parameter(torch.randn(WORDS, DIM, generator=generator))
        self.types = nn.Parameter(torch.randn(2, DIM, generator=generator))
        self.mix = nn.Parameter(torch.randn(DIM, DIM, generator=generator))
        self.calls: list[tuple[int, ...]] = []
        self.tokenizer, self.max_seq_length, self.device = word_tokenizer(), 64, torch.device("cpu")
        self.double()

    def get_embedding_dimension(self) -> int:
        """Number of dimensions of an embedding."""
        return DIM

    def __getitem__(self, place: int) -> nn.Module:  # the first module of a model is asked for its options
        return self

    def forward(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Adds ``sentence_embedding`` (n, d) to the features of a column."""
        ids, mask = features["input_ids"], features["attention_mask"]
        self.calls.append(tuple(ids.shape))
        tokens = self.words[ids]
        if "token_type_ids" in features:
            tokens = tokens + self.types[features["token_type_ids"]]
        scores = (tokens @ self.mix @ tokens.mT).masked_fill(mask[:, None] == 0, -1e9)
        tokens = tokens + scores.softmax(-1) @ tokens
        if "prompt_length" in features:
            counted = torch.as_tensor(features["prompt_length"]).reshape(-1, 1)
            mask = mask * (mask.cumsum(1) > counted)
        weights = mask[..., None].to(tokens.dtype)
        return {**features, "sentence_embedding": (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)}


def token_columns(
    columns: int,
    rows: int,
    seed: int = 0,
    left: bool = False,
    types: bool = False,
    prompt: int | list[int] | None = None,
) -> list[Features]:
    """Random text columns of different widths.

    Args:
        columns: Number of text columns.
        rows: Number of rows n.
        seed: Seed of lengths and tokens.
        left: Whether padding is on the left.
        types: Whether to add random ``token_type_ids``.
        prompt: ``prompt_length`` to add.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        _column(rows, longest, left, generator, types, prompt) for longest in range(4, 4 + 5 * columns, 5)
    ]


def _column(
    rows: int,
    longest: int,
    left: bool,
    generator: torch.Generator,
    types: bool,
    prompt: int | list[int] | None,
) -> Features:
    lengths = torch.randint(2, longest + 1, (rows,), generator=generator)
    lengths[int(torch.randint(rows, (1,), generator=generator))] = longest
    mask = (torch.arange(longest) < lengths[:, None]).long()
    mask = mask.flip(1) if left else mask
    column: Features = {
        "input_ids": torch.randint(1, WORDS, (rows, longest), generator=generator) * mask,
        "attention_mask": mask,
    }
    if types:
        column["token_type_ids"] = torch.randint(0, 2, (rows, longest), generator=generator) * mask
    if prompt is not None:
        column["prompt_length"] = prompt
    return column


def gradient(value: Tensor, module: nn.Module) -> Tensor:
    """All gradients of a module's weights in one vector; unused weights count as zero.

    Args:
        value: A scalar that depends on the weights.
        module: Holds the weights.
    """
    weights = list(module.parameters())
    found = torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True)
    parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    return torch.cat([part.reshape(-1) for part in parts])
