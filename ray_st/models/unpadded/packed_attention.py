"""Attention among the texts of a packed row: in groups of similar length, or in a kernel for any lengths."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ray_st.models.unpadded.packed_masks import Band, PackedMask, packed_mask

IMPLEMENTATION = "unpadded"
"""The name under which transformers knows this attention; a batch with padding is handled like "sdpa"."""


def _kernel() -> Callable[..., Tensor] | None:
    name = "torch.nn.attention.varlen"
    if importlib.util.find_spec(name) is None:
        return None
    kernel: Callable[..., Tensor] = importlib.import_module(name).varlen_attn
    return kernel if "window_size" in inspect.signature(kernel).parameters else None


KERNEL = _kernel()
"""PyTorch's attention for texts of any length; None before it had windows. Compiled layers could not look for
it, hence a constant."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | PackedMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers expects: queries, keys and values (1, heads, tokens, d).

    Returns:
        (1, tokens, heads, d), and no weights.
    """
    if isinstance(attention_mask, PackedMask):
        # Values have the type that is computed in; norms and rotary positions may have widened the others.
        states = [rows[0].transpose(0, 1).to(value.dtype) for rows in (query, key, value)]
        plain = not dropout and softcap is None and position_bias is None
        if KERNEL is not None and plain and suits_kernel(states):
            return in_kernel(KERNEL, states, attention_mask, scaling)[None], None
        bias = None if position_bias is None else Distant(position_bias)
        return in_groups(states, attention_mask, dropout, scaling, softcap, bias)[None], None
    if softcap is not None:
        mask = attention_mask if attention_mask is not None else _causal(module, query)
        attended = soft_capped(query, key, value, mask, dropout, scaling, softcap)
        return attended.transpose(1, 2).contiguous(), None
    if position_bias is not None:
        options["position_bias"] = position_bias
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


Bias = Callable[[Tensor, Tensor], Tensor]
"""What is added to the scores (n or 1, heads, w, w) of a group's queries and keys (n, heads, w, d)."""


@dataclass(frozen=True)
class Distant:
    """A bias that depends on the distance of two tokens alone, as in T5.

    Attributes:
        bias: Of texts of any length up to the longest (1, heads, w, w).
    """

    bias: Tensor

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """The bias of texts of the queries' width."""
        width = query.shape[2]
        return self.bias[:, :, :width, :width]


@torch.compiler.disable
def in_groups(
    states: list[Tensor],
    mask: PackedMask,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    bias: Bias | None = None,
) -> Tensor:
    """Attention group by group.

    Args:
        states: Queries (tokens, heads, d), keys and values (tokens, fewer or as many heads, d) of the row.
        mask: Who attends to whom.
        dropout: Probability of leaving out a token.
        scaling: Factor of the scores; by default one by the square root of d.
        softcap: Bound that scores approach, as in Gemma 2; None for none.
        bias: Computes what is added to the scores; None for none.

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
            seen, causal = who.mask, who.causal
            if bias is not None:
                seen, causal = _hidden(bias(q, k), who.explicit(q.device)), False
            batch = scaled_dot_product_attention(
                q, k, v, seen, dropout, causal, scale=scaling, enable_gqa=grouped
            )
        attended.append(group.collect(batch))
    attended.append(attended[0].new_zeros(packing.spare, *attended[0].shape[1:]))
    return torch.cat(attended)


def replace_classes(model: PreTrainedModel, packed: Mapping[type, type]) -> None:
    """Makes a model with an attention of its own take packed rows; weights, names and hooks stay as they are.

    Args:
        model: The model.
        packed: For classes of its modules, their subclasses that take packed rows.
    """
    for module in model.modules():
        module.__class__ = packed.get(type(module), type(module))
    model.config._attn_implementation = IMPLEMENTATION


def _hidden(bias: Tensor, mask: Tensor | None) -> Tensor:
    """What is added to the scores, which also hides what a mask leaves out."""
    # Not minus infinity, whose gradient would be NaN.
    return bias if mask is None else bias.masked_fill(~mask, torch.finfo(bias.dtype).min)


def in_kernel(
    kernel: Callable[..., Tensor], states: list[Tensor], mask: PackedMask, scaling: float | None = None
) -> Tensor:
    """Attention of all texts at once.

    Args:
        kernel: Computes like ``torch.nn.attention.varlen.varlen_attn``.
        states: As for :func:`in_groups`.
        mask: Who attends to whom.
        scaling: Factor of the scores; by default one by the square root of d.

    Returns:
        (tokens, heads, d), zero for spare tokens.
    """
    packing, band = mask.packing, mask.band
    query, key, value = (rows[: len(packing.tokens)] for rows in states)
    attended = kernel(
        query,
        key,
        value,
        packing.ends,
        packing.ends,
        packing.longest,
        packing.longest,
        scale=scaling,
        window_size=(band.left, band.right),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return pad(attended, (0, 0, 0, 0, 0, packing.spare)) if packing.spare else attended


def suits_kernel(states: list[Tensor]) -> bool:
    """Whether the kernel takes queries, keys and values of this type and size on this device.

    It computes in 16 bits, without dropout, for heads of up to 256 dimensions; more than 192 need an A100 or
    H100 for their gradient.
    """
    query = states[0]
    if query.device.type != "cuda" or not torch.cuda.is_available():
        return False
    if {rows.dtype for rows in states} not in ({torch.float16}, {torch.bfloat16}):
        return False
    sizes, able = {rows.shape[-1] for rows in states}, torch.cuda.get_device_capability(query.device)
    widest = 256 if able in ((8, 0), (9, 0)) else 192
    return able >= (8, 0) and len(sizes) == 1 and max(sizes) <= widest and max(sizes) % 8 == 0


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
