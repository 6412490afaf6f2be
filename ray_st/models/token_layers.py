"""Modules over token vectors: a CNN, an LSTM, a mixture of encoder layers, and weights of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ray_st.models.module import Features, WeightedModule
from ray_st.util.host_facts import without_host_facts


class CNN(WeightedModule):
    """Replaces each token's vector by convolutions over its neighborhood, concatenated.

    Vectors outside a text count as zero, padding included: an embedding does not depend on the texts that
    share the batch. (The peer convolves over the vectors of padding too, and agrees if all texts are of the
    same length or padding has zero vectors.)

    Args:
        in_word_embedding_dimension: Dimension of a token's vector.
        out_channels: Channels of each convolution.
        kernel_sizes: Width in tokens of each convolution; odd.
        stride_sizes: Stride in tokens, the same for all convolutions; 1 by default. A larger one keeps every
            stride-th token; texts must then be padded on the right.

    Raises:
        ValueError: If a kernel is even, or strides differ: the results could not be concatenated.
    """

    config_file_name: ClassVar[str] = "cnn_config.json"
    config_keys: ClassVar = ("in_word_embedding_dimension", "out_channels", "kernel_sizes", "stride_sizes")
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
        vectors, mask = features["token_embeddings"], features.get("attention_mask")
        if mask is not None:
            vectors = vectors.masked_fill(~mask.bool().unsqueeze(-1), 0.0)
        channels = vectors.transpose(1, 2)
        convolved = torch.cat([conv(channels) for conv in self.convs], dim=1).transpose(1, 2)
        stride = self.stride_sizes[0]
        if mask is not None and stride != 1:
            features = {**without_host_facts(features), "attention_mask": mask[:, ::stride]}
        return {**features, "token_embeddings": convolved}

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's new vector."""
        return self.out_channels * len(self.kernel_sizes)

    get_word_embedding_dimension = get_embedding_dimension


def _check(kernels: Sequence[int], strides: Sequence[int]) -> None:
    if not kernels or any(size % 2 == 0 for size in kernels):
        raise ValueError(f"kernel_sizes must be odd numbers, one or more; got {list(kernels)}.")
    if len(strides) != len(kernels) or len(set(strides)) > 1:
        raise ValueError(
            f"stride_sizes must be the same number {len(kernels)} times, once per kernel; got "
            f"{list(strides)}."
        )


class LSTM(WeightedModule):
    """Replaces each token's vector by the LSTM state after that token, in both directions by default.

    Padding on either side is skipped: an embedding does not depend on the texts that share the batch.

    Args:
        word_embedding_dimension: Dimension of a token's vector.
        hidden_dim: Dimension of the state in one direction.
        num_layers: Number of stacked layers.
        dropout: Fraction of values set to zero between layers during training.
        bidirectional: Whether a second LSTM reads from the end; its states are concatenated to those of the
            first.
    """

    config_file_name: ClassVar[str] = "lstm_config.json"
    config_keys: ClassVar = (
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
            num_layers,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d) as states (n, t, hidden_dim x directions)."""
        vectors, real = features["token_embeddings"], features["attention_mask"].bool()
        order = (~real).int().argsort(dim=1, stable=True)  # real tokens first, in their order
        lengths = real.sum(dim=1).clamp(min=1).cpu()  # packing requires a length of at least 1
        ordered = _reorder(vectors, order)
        packed = pack_padded_sequence(ordered, lengths, batch_first=True, enforce_sorted=False)
        packed, _ = self.encoder(packed)
        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=vectors.shape[1])
        return {**features, "token_embeddings": _reorder(states, order.argsort(dim=1))}

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's new vector."""
        return self.hidden_dim * (2 if self.bidirectional else 1)

    get_word_embedding_dimension = get_embedding_dimension


def _reorder(vectors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return vectors.gather(1, order.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))


class WeightedLayerPooling(WeightedModule):
    """Replaces each token's vector by a learned weighted mean over the encoder's layers.

    The encoder must output all of its layers: ``Transformer(..., config_args={"output_hidden_states":
    True})``. Without them, token vectors are left unchanged.

    Args:
        word_embedding_dimension: Dimension of a token's vector.
        num_hidden_layers: Layers of the encoder.
        layer_start: The first layer that counts; 0 stands for the token embeddings.
        layer_weights: (num_hidden_layers + 1 - layer_start,), the weights to start from; ones by default.

    Raises:
        ValueError: If there are no layers from ``layer_start`` on, or the number of weights is wrong.
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
                f"layer_weights must be {count} numbers, one per layer from layer {layer_start} on; got the "
                f"shape {tuple(weights.shape)}."
            )
        self.layer_weights = nn.Parameter(weights)

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d) mixed from ``all_layer_embeddings``."""
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


def weights_of(vocab: Sequence[str], word_weights: Mapping[str, float], otherwise: float) -> list[float]:
    """The weight of each word: its own, or that of its lower-case form, or ``otherwise``."""
    return [float(word_weights.get(word, word_weights.get(word.lower(), otherwise))) for word in vocab]


class WordWeights(WeightedModule):
    """Multiplies each token's vector by a weight of the token.

    A mean over tokens afterwards is a weighted mean.

    Args:
        vocab: The tokenizer's words, in the order of their ids.
        word_weights: Weights of words; may lack some of ``vocab`` and contain others.
        unknown_word_weight: Weight of words without one.
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
        """The features with weighted ``token_embeddings`` (n, t, d), and ``token_weights_sum`` (n,)."""
        ids = features["input_ids"]
        self._check(int(ids.max()) if ids.numel() else 0)
        weights = self.emb_layer(ids).squeeze(-1) * features["attention_mask"]
        weighted = features["token_embeddings"] * weights.unsqueeze(-1)
        return {**features, "token_embeddings": weighted, "token_weights_sum": weights.sum(dim=1)}

    def _check(self, greatest: int) -> None:
        if greatest >= len(self.vocab):
            raise ValueError(
                f"WordWeights has {len(self.vocab)} words in vocab, but there is a token with id {greatest}: "
                "vocab must be the tokenizer's words in the order of their ids."
            )
