"""Convolutions over the tokens of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from ray_st.models.module import Features
from ray_st.models.weighted import WeightedModule


class CNN(WeightedModule):
    """Replaces each token's vector by convolutions over its neighbourhood, laid side by side.

    Outside a text there are zeros, also where the batch goes on: an embedding does not depend on the texts that share
    the batch. (The peer convolves over the vectors of padding, and agrees where all texts are of the same length or
    padding has zero vectors.)

    Args:
        in_word_embedding_dimension: Dimension of a token's vector.
        out_channels: Channels of each convolution.
        kernel_sizes: Width in tokens of each convolution; odd.
        stride_sizes: Steps in tokens, the same for all convolutions; 1 by default. With a greater one every stride-th
            token is kept; then texts must be padded on the right.

    Raises:
        ValueError: If a kernel is even, or strides differ: their results could not be laid side by side.
    """

    config_file_name: ClassVar[str] = "cnn_config.json"
    config_keys: ClassVar[tuple[str, ...]] = (
        "in_word_embedding_dimension",
        "out_channels",
        "kernel_sizes",
        "stride_sizes",
    )
    config_renames: ClassVar[Mapping[str, str]] = {"in_embedding_dimension": "in_word_embedding_dimension"}

    def __init__(
        self,
        in_word_embedding_dimension: int,
        out_channels: int = 256,
        kernel_sizes: Sequence[int] = (1, 3, 5),
        stride_sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.in_word_embedding_dimension = in_word_embedding_dimension
        self.out_channels = out_channels
        self.kernel_sizes = list(kernel_sizes)
        self.stride_sizes = [1] * len(self.kernel_sizes) if stride_sizes is None else list(stride_sizes)
        _check(self.kernel_sizes, self.stride_sizes)
        self.convs = nn.ModuleList(
            nn.Conv1d(in_word_embedding_dimension, out_channels, size, stride, padding=size // 2)
            for size, stride in zip(self.kernel_sizes, self.stride_sizes, strict=True)
        )

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d) convolved: (n, t / stride, channels x kernels)."""
        vectors, mask, stride = (
            features["token_embeddings"],
            features.get("attention_mask"),
            self.stride_sizes[0],
        )
        if mask is not None:
            vectors = vectors.masked_fill(~mask.bool().unsqueeze(-1), 0.0)
        channels = vectors.transpose(1, 2)
        convolved = torch.cat([conv(channels) for conv in self.convs], dim=1).transpose(1, 2)
        kept = {} if mask is None or stride == 1 else {"attention_mask": mask[:, ::stride]}
        return {**features, **kept, "token_embeddings": convolved}

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's new vector."""
        return self.out_channels * len(self.kernel_sizes)

    get_word_embedding_dimension = get_embedding_dimension


def _check(kernels: Sequence[int], strides: Sequence[int]) -> None:
    if not kernels or any(size % 2 == 0 for size in kernels):
        raise ValueError(f"kernel_sizes must be odd numbers, one or more; got {list(kernels)}.")
    if len(strides) != len(kernels) or len(set(strides)) > 1:
        raise ValueError(
            f"stride_sizes must be the same number {len(kernels)} times, once a kernel; got {list(strides)}."
        )
