"""Which tokens of its own text a token attends to, as the model itself defines it.

Models make their masks before their layers, with a function of two positions for each kind of layer: causal,
within a window, or any. For a packed row no mask of the whole row is ever made: the function is asked what
it does within one text, and each group of texts gets the small mask that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import sdpa_mask

from ray_st.models.unpadded.packed_rows import Group, Packing

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a token attends to another: of the indices of batch, head, query and key."""


class PackedTexts:
    """Stands in for the attention mask when a model is called with a packed row.

    It has as much of a tensor as transformers looks at on its way to :func:`packed_mask`.
    """

    ndim = 1

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.shape = (1, len(packing.row))


@dataclass(frozen=True)
class Band:
    """A token attends to this many tokens before it and after it; -1 for all."""

    left: int
    right: int

    @classmethod
    def of(cls, function: MaskFunction, width: int) -> Band:
        """The band within which the tokens of texts of at most this width attend to each other.

        Raises:
            ValueError: If the function describes no band.
        """
        places = torch.arange(width, device="cpu")

        def sees(queries: Tensor, keys: Tensor) -> Tensor:
            zero = torch.zeros_like(queries)
            return function(zero, zero, queries, keys).expand(len(keys))

        left = int(sees(places[-1:], places).sum()) - 1
        right = int(sees(places[:1], places).sum()) - 1
        # Only a band has the same borders everywhere.
        for offset, inside in ((-left - 1, False), (-left, True), (right, True), (right + 1, False)):
            queries = places[max(0, -offset) : max(0, min(width, width - offset))]
            if not bool((sees(queries, queries + offset) == inside).all()):
                raise ValueError(
                    "The model's tokens attend in a pattern that is not computed without padding. Open it "
                    'with model_kwargs={"attn_implementation": "sdpa"}.'
                )
        return cls(*(-1 if reach == width - 1 else reach for reach in (left, right)))

    def mask(self, width: int, device: torch.device) -> Tensor | None:
        """Which tokens of a text of this width attend to which (w, w); None if all do to all."""
        left, right = (width if reach < 0 else reach for reach in (self.left, self.right))
        if min(left, right) >= width - 1:
            return None
        places = torch.arange(width, device=device)
        distance = places - places[:, None]
        return (distance >= -left) & (distance <= right)


@dataclass(frozen=True)
class GroupMask:
    """Which tokens of a group's padded batch attend to which.

    Attributes:
        causal: Each token attends to itself and all before it.
        mask: Otherwise a mask that broadcasts to (n, 1, w, w); None if all tokens attend to all.
        width: w.
    """

    causal: bool
    mask: Tensor | None
    width: int

    @classmethod
    def of(cls, group: Group, band: Band) -> GroupMask:
        """The mask of a group whose tokens attend within a band."""
        width, device = group.shape[1], group.lengths.device
        if band.right == 0 and not 0 <= band.left < width - 1:
            # Padding comes after the tokens: none of them attends to it.
            return cls(width > 1, None, width)
        near = band.mask(width, device)
        if group.places is None or (near is not None and band.right == 0):
            return cls(False, None if near is None else near[None, None], width)
        real = group.holds_token()
        keys = real[:, None, None]
        if near is None:
            return cls(False, keys, width)
        # Padding attends to padding: without anything to attend to it would be NaN.
        return cls(False, near & (keys | ~real[:, None, :, None]), width)

    def explicit(self, device: torch.device) -> Tensor | None:
        """The mask as a tensor also where it is causal."""
        if self.causal:
            return torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
        return self.mask


@dataclass(frozen=True)
class PackedMask:
    """What layers get as the attention mask of a packed row.

    Attributes:
        packing: The row's layout.
        band: Which tokens of its text a token attends to.
    """

    packing: Packing
    band: Band

    @cached_property
    def of_groups(self) -> tuple[GroupMask, ...]:
        """The mask of each group."""
        return tuple(GroupMask.of(group, self.band) for group in self.packing.groups)


def packed_mask(*, mask_function: MaskFunction, attention_mask: Any = None, **options: Any) -> Any:
    """Makes the mask of a kind of layers, for transformers: of a packed row, or else as for "sdpa"."""
    if isinstance(attention_mask, PackedTexts):
        packing = attention_mask.packing
        return PackedMask(packing, Band.of(mask_function, packing.longest))
    return sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, **options)
