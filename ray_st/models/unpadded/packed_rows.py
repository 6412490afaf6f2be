"""Where the real tokens of a padded batch lie, and how they form one row and groups of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_st.util.chunks import cheapest_chunks
from ray_st.util.tensors import to_device

GROUP_TOKENS = 64
"""Cost in attention of one more group of texts, in padded tokens.

Measured on the CPU with all-MiniLM-L6-v2: values from 20 to 200 make no visible difference.
"""

Indices = NDArray[np.int64]


def rounded(tokens: int) -> int:
    """A number of tokens rounded up, by at most 1/32 from 256 on: 32 values per power of two.

    Few different shapes matter because matrix libraries cache prepared data for each: oneDNN half a MiB per
    product.
    """
    step = max(8, 1 << max(tokens.bit_length() - 6, 0))
    return -(-tokens // step) * step


@dataclass(frozen=True)
class Group:
    """Texts of similar length whose tokens are concatenated.

    Attributes:
        tokens: Total number of tokens.
        shape: (n, w): number of texts, and tokens of the longest.
        lengths: Tokens of each text (n,).
        places: Index of the token at each position of the padded batch (n * w,); None if all have the same
            length.
        real: Index of each token's position in the padded batch (tokens,); None if all have the same length.
    """

    tokens: int
    shape: tuple[int, int]
    lengths: Tensor
    places: Tensor | None
    real: Tensor | None

    def spread(self, rows: Tensor) -> Tensor:
        """Rows of tokens (tokens, heads, d) as a padded batch (n, heads, w, d)."""
        taken = rows if self.places is None else rows.index_select(0, self.places)
        return taken.unflatten(0, self.shape).transpose(1, 2)

    def collect(self, batch: Tensor) -> Tensor:
        """The reverse of :meth:`spread`."""
        rows = batch.transpose(1, 2).flatten(0, 1)
        return rows if self.real is None else rows.index_select(0, self.real)

    def holds_token(self) -> Tensor:
        """Whether a position of the padded batch holds a token (n, w)."""
        return torch.arange(self.shape[1], device=self.lengths.device) < self.lengths[:, None]


@dataclass(frozen=True)
class Packing:
    """The layout of a padded batch's (n, t) real tokens once they are concatenated.

    Attributes:
        tokens: Their indices in the flattened batch, sorted by the length of their texts.
        row: The same, followed by copies of the first as spare ones, which belong to no text and round up the
            total; attention skips them.
        groups: The texts in groups for attention.
        ends: Where each text begins in the row, and the last one ends: int32 (texts + 1,).
        longest: Tokens of the longest text.
        shape: (n, t).
    """

    tokens: Tensor
    row: Tensor
    groups: tuple[Group, ...]
    ends: Tensor
    longest: int
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor, lengths: Tensor | None = None, side: str | None = None) -> Packing:
        """The packing of a batch.

        With lengths and side the host does not wait for the device of the mask; without, once.

        Args:
            mask: The attention mask (n, t).
            lengths: Tokens of each row, on the CPU (n,), if each row's tokens are one unbroken run.
            side: Where the padding is, "left" or "right".
        """
        shape = (mask.shape[0], mask.shape[1])
        places, sizes = _real_places(mask, lengths, side)
        return _built(places, sizes, shape, mask.device)

    @property
    def spare(self) -> int:
        """Number of tokens in the row that belong to no text."""
        return len(self.row) - len(self.tokens)

    def pack(self, batch: Tensor) -> Tensor:
        """The real tokens of a batch (n, t), then the spare ones: (1, tokens + spare)."""
        return batch.reshape(-1).index_select(0, self.row)[None]

    def pad(self, vectors: Tensor) -> Tensor:
        """The tokens' vectors (1, tokens + spare, d) as a padded batch (n, t, d) with zeros at padding."""
        rows, width = self.shape
        batch = vectors.new_zeros(rows * width, vectors.shape[-1])
        return batch.index_copy(0, self.tokens, vectors[0, : len(self.tokens)]).unflatten(0, self.shape)


def find_packing(
    inputs: Mapping[str, Tensor], lengths: Tensor | None = None, side: str | None = None
) -> Packing | None:
    """The packing of a batch of token ids; None if there is no padding in it, or nothing else.

    Args:
        inputs: What the encoder is called with.
        lengths: As for :meth:`Packing.of`.
        side: As for :meth:`Packing.of`.
    """
    mask = inputs.get("attention_mask")
    if (
        mask is None
        or mask.dim() != 2
        or "input_ids" not in inputs
        or {"position_ids", "inputs_embeds"} & set(inputs)
        or torch.compiler.is_compiling()
    ):
        return None
    shape = (mask.shape[0], mask.shape[1])
    places, sizes = _real_places(mask, lengths, side)
    return _built(places, sizes, shape, mask.device) if 0 < len(places) < mask.numel() else None


def is_full(inputs: Mapping[str, Tensor], lengths: Tensor | None) -> bool:
    """Whether the host knows that a batch has no padding.

    Args:
        inputs: ``input_ids`` (n, t) and others.
        lengths: Tokens of each row (n,), on the CPU, or None if the host does not know them.
    """
    return lengths is not None and int(lengths.sum()) == inputs["input_ids"].numel()


def _real_places(mask: Tensor, lengths: Tensor | None, side: str | None) -> tuple[Indices, Indices]:
    """Indices of the real tokens in the flattened batch, shortest text first, and the texts' lengths."""
    width = mask.shape[1]
    if lengths is None or side is None:
        real = mask.cpu().numpy() != 0
        sizes = real.sum(axis=1, dtype=np.int64)
        order = np.argsort(sizes, kind="stable")
        rows, columns = real[order].nonzero()
        return order[rows] * width + columns, sizes[order][sizes[order] > 0]
    sizes = lengths.numpy()
    order = np.argsort(sizes, kind="stable")
    sizes = sizes[order]
    starts = order * width + (width - sizes if side == "left" else 0)
    # The place of a token is its number in the row, moved by as much as its text's first token is.
    moves = np.repeat(starts - (sizes.cumsum() - sizes), sizes)
    return moves + np.arange(len(moves)), sizes[sizes > 0]


def _built(places: Indices, sizes: Indices, shape: tuple[int, int], device: torch.device) -> Packing:
    """The packing of tokens at these places whose texts have these sizes, the longest last."""
    # Only libraries for CPUs prepare data for each number of tokens.
    spare = rounded(len(places)) - len(places) if device.type == "cpu" else 0
    cuts = np.cumsum([len(chunk) for chunk, _ in cheapest_chunks(sizes, GROUP_TOKENS)])
    parts = np.split(sizes, cuts[:-1])
    pieces = [places, np.repeat(places[:1], spare), np.cumsum([0, *sizes]), sizes]
    for part in parts:
        pieces += _group_indices(part)
    # All indices travel in one copy.
    row, ends, lengths, *rest = _sent([np.concatenate(pieces[:2]), *pieces[2:]], device)
    groups = []
    for part, mine, spread, real in zip(
        parts, lengths.split([len(part) for part in parts]), rest[::2], rest[1::2], strict=True
    ):
        alike = int(part[0]) == int(part[-1])
        groups.append(
            Group(
                tokens=int(part.sum()),
                shape=(len(part), int(part[-1])),
                lengths=mine,
                places=None if alike else spread,
                real=None if alike else real,
            )
        )
    return Packing(
        row[: len(places)], row, tuple(groups), ends.to(torch.int32), int(sizes.max(initial=0)), shape
    )


def _group_indices(sizes: Indices) -> list[Indices]:
    """``places`` and ``real`` of a :class:`Group`; empty if all texts have the same length."""
    width = int(sizes[-1])
    if int(sizes[0]) == width:
        return [np.empty(0, np.int64)] * 2
    real = np.arange(width) < sizes[:, None]
    places = ((sizes.cumsum() - sizes)[:, None] + np.arange(width)) * real
    return [places.reshape(-1), real.reshape(-1).nonzero()[0]]


def _sent(arrays: list[Indices], device: torch.device) -> list[Tensor]:
    """Arrays on a device, without waiting for it."""
    whole = to_device(torch.from_numpy(np.concatenate(arrays)), device)
    return list(whole.split([len(array) for array in arrays]))
