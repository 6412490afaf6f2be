"""Attention among the texts of a packed row: in groups of similar length, or in a kernel for any lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ray_st.models.unpadded.packed_masks import Band, PackedMask, packed_mask

IMPLEMENTATION = "unpadded"
"""The name under which transformers knows this attention; a batch with padding is handled like "sdpa"."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | PackedMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers expects: queries, keys and values (1, heads, tokens, d).

    Returns:
        (1, tokens, heads, d), and no weights.
    """
    if isinstance(attention_mask, PackedMask):
        states = [rows[0].transpose(0, 1) for rows in (query, key, value)]
        return in_groups(states, attention_mask, dropout, scaling, softcap)[None], None
    if softcap is not None:
        mask = attention_mask if attention_mask is not None else _causal(module, query)
        attended = soft_capped(query, key, value, mask, dropout, scaling, softcap)
        return attended.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


def in_groups(
    states: list[Tensor],
    mask: PackedMask,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention group by group.

    Args:
        states: Queries (tokens, heads, d), keys and values (tokens, fewer or as many heads, d) of the row.
        mask: Who attends to whom.
        dropout: Probability of leaving out a token.
        scaling: Factor of the scores; by default one by the square root of d.
        softcap: Bound that scores approach, as in Gemma 2; None for none.

    Returns:
        (tokens, heads, d), zero for spare tokens.
    """
    packing = mask.packing
    sizes = [*(group.tokens for group in packing.groups), packing.spare]
    parts = [rows.split(sizes)[:-1] for rows in states]
    grouped = states[0].shape[1] != states[1].shape[1]
    attended = []
    for group, who, *rows in zip(packing.groups, mask.of_groups, *parts, strict=True):
        q, k, v = map(group.spread, rows)
        if softcap is not None:
            batch = soft_capped(q, k, v, who.explicit(q.device), dropout, scaling, softcap)
        else:
            batch = scaled_dot_product_attention(
                q, k, v, who.mask, dropout, who.causal, scale=scaling, enable_gqa=grouped
            )
        attended.append(group.collect(batch))
    attended.append(states[2].new_zeros(packing.spare, *attended[0].shape[1:]))
    return torch.cat(attended)


def soft_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Attention whose scores are pressed below a bound, ``softcap * tanh(score / softcap)``.

    Args:
        query: (n, heads, w, d).
        key: (n, fewer or as many heads, w, d).
        value: As ``key``.
        mask: Boolean, broadcasts to (n, heads, w, w); None if all tokens attend to all.
        dropout: Probability of leaving out a token.
        scaling: Factor of the scores; by default one by the square root of d.
        softcap: The bound.

    Returns:
        (n, heads, w, d).
    """
    copies = query.shape[1] // key.shape[1]
    key, value = (heads.repeat_interleave(copies, 1) if copies > 1 else heads for heads in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        # Not minus infinity: a row of padding that attends to nothing would be NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide).to(value.dtype)
    return drop(weights, dropout) @ value


def _causal(module: object, query: Tensor) -> Tensor | None:
    """The mask that "sdpa" leaves out: it knows from the module that attention is causal."""
    match module:
        case object(is_causal=True):
            return Band(-1, 0).mask(query.shape[2], query.device)
    return None


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, packed_mask)
