"""Runs an encoder without padding: all real tokens of a batch in one row, each text attending only to itself.

An encoder spends most of its time in layers that process one token at a time. Padding costs them as much as
text does; here they never get any. Only attention needs to know where texts begin and end: it runs on groups
of texts of similar length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ray_st.models.encoder_loading import setting_of
from ray_st.models.positions import first_columns, with_vectors
from ray_st.util.chunks import cheapest_chunks

IMPLEMENTATION = "sdpa_unpadded"
"""The name under which transformers knows this attention; a batch with padding is handled like "sdpa"."""

GROUP_TOKENS = 64
"""Cost in attention of one more group of texts, in padded tokens.

Measured on the CPU with all-MiniLM-L6-v2: values from 20 to 200 make no visible difference.
"""


def rounded(tokens: int) -> int:
    """A number of tokens rounded up, by at most 1/32 from 256 on: 32 values per power of two.

    Few different shapes matter because matrix libraries cache prepared data for each: oneDNN half a MiB per
    product.
    """
    step = max(8, 1 << max(tokens.bit_length() - 6, 0))
    return -(-tokens // step) * step


def _by_column(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    return (columns - first_columns(mask)[:, None]).clamp(min=0)


def _by_count(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    # The id of padding may differ from pad_id, hence the comparison with the first column.
    real = (ids != pad_id) & (columns >= first_columns(mask)[:, None])
    return real.cumsum(dim=1) * real + pad_id


POSITIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "bert": _by_column,
    "camembert": _by_count,
    "distilbert": _by_column,
    "electra": _by_column,
    "roberta": _by_count,
    "xlm-roberta": _by_count,
}
"""How the models that can run without padding number their positions, by ``model_type``."""


@dataclass(frozen=True)
class Group:
    """Texts of similar length whose tokens are concatenated.

    Attributes:
        tokens: Total number of tokens.
        places: Index of the token at each position of the padded batch (n, w); None if all have the same
            length.
        real: Whether a position holds a token (n, w); None if all have the same length.
        shape: (n, w).
    """

    tokens: int
    places: Tensor | None
    real: Tensor | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> Group:
        """The group of texts with these lengths (n,), the longest last."""
        width, tokens = int(lengths[-1]), int(lengths.sum())
        if int(lengths[0]) == width:
            return cls(tokens, None, None, (len(lengths), width))
        columns = torch.arange(width)
        real = columns < lengths[:, None]
        places = ((lengths.cumsum(0) - lengths)[:, None] + columns) * real
        return cls(tokens, places.to(device), real.to(device), (len(lengths), width))

    def spread(self, rows: Tensor) -> Tensor:
        """Rows of tokens (tokens, heads, d) as a padded batch (n, heads, w, d)."""
        taken = rows if self.places is None else rows.index_select(0, self.places.reshape(-1))
        return taken.unflatten(0, self.shape).transpose(1, 2)

    def collect(self, batch: Tensor) -> Tensor:
        """The reverse of :meth:`spread`."""
        rows = batch.transpose(1, 2)
        return rows.flatten(0, 1) if self.real is None else rows[self.real]

    @property
    def mask(self) -> Tensor | None:
        """The positions that each token may attend to (n, 1, 1, w); None for all."""
        return None if self.real is None else self.real[:, None, None]


@dataclass(frozen=True)
class Packing:
    """The layout of a padded batch's (n, t) real tokens once they are concatenated.

    Attributes:
        tokens: Their indices in the flattened batch, sorted by the length of their texts.
        spare: Number of tokens after them that belong to no text and round up the total; attention skips
            them.
        groups: The texts in groups for attention.
        shape: (n, t).
    """

    tokens: Tensor
    spare: int
    groups: tuple[Group, ...]
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """The packing of a batch, from its attention mask (n, t)."""
        real = mask != 0
        lengths = real.sum(dim=1).cpu()
        order = lengths.argsort(stable=True)
        rows, columns = real[order.to(mask.device)].nonzero(as_tuple=True)
        tokens = order.to(mask.device)[rows] * mask.shape[1] + columns
        sorted_lengths = lengths[order][lengths[order] > 0]
        cuts = [len(chunk) for chunk, _ in cheapest_chunks(sorted_lengths.numpy(), GROUP_TOKENS)]
        groups = tuple(Group.of(part, mask.device) for part in sorted_lengths.split(cuts))
        return cls(tokens, rounded(len(tokens)) - len(tokens), groups, (mask.shape[0], mask.shape[1]))

    def pack(self, batch: Tensor) -> Tensor:
        """The real tokens of a batch (n, t), then copies of the first as spare ones: (1, tokens + spare)."""
        places = torch.cat([self.tokens, self.tokens[:1].expand(self.spare)])
        return batch.reshape(-1).index_select(0, places)[None]

    def pad(self, vectors: Tensor) -> Tensor:
        """The tokens' vectors (1, tokens + spare, d) as a padded batch (n, t, d) with zeros at padding."""
        rows, width = self.shape
        batch = vectors.new_zeros(rows * width, vectors.shape[-1])
        return batch.index_copy(0, self.tokens, vectors[0, : len(self.tokens)]).unflatten(0, self.shape)


def prepare(model: PreTrainedModel) -> None:
    """Makes an encoder run without padding, if its attention is "sdpa" and it can.

    It can if it is one of :data:`POSITIONS` and not used as a decoder.
    """
    config = model.config
    encodes = config.model_type in POSITIONS and setting_of(config, "is_decoder", False) is False
    if encodes and config._attn_implementation == "sdpa":
        model.set_attn_implementation(IMPLEMENTATION)


def is_prepared(model: PreTrainedModel) -> bool:
    """Whether :func:`prepare` had an effect, and still has."""
    return setting_of(model.config, "_attn_implementation") == IMPLEMENTATION


def has_padding(inputs: Mapping[str, Tensor]) -> bool:
    """Whether a batch consists of token ids with padding among them."""
    mask = inputs.get("attention_mask")
    return (
        mask is not None
        and mask.dim() == 2
        and "input_ids" in inputs
        and not {"position_ids", "inputs_embeds"} & set(inputs)
        and not torch.compiler.is_compiling()
        and not bool(mask.all())
        and bool(mask.any())
    )


def run_unpadded(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
    """Runs an encoder on the real tokens of a batch.

    Args:
        model: A prepared encoder.
        inputs: ``input_ids`` and ``attention_mask`` (n, t), and other tensors of that shape.

    Returns:
        The encoder's output, with ``last_hidden_state`` (n, t, d) and, if requested, ``hidden_states``. It is
        zero at padding; elsewhere it equals the output for the padded batch with each text at the first
        column.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    packing = Packing.of(mask)
    positions = POSITIONS[model.config.model_type](ids, mask, model.config.pad_token_id or 0)
    others = {name: packing.pack(value) for name, value in inputs.items() if name != "attention_mask"}
    output = model(**others, position_ids=packing.pack(positions), packing=packing, return_dict=True)
    return with_vectors(output, packing.pad)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers expects: queries, keys and values (1, heads, tokens, d).

    Returns:
        (1, tokens, heads, d), and no weights.
    """
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    sizes = [*(group.tokens for group in packing.groups), packing.spare]
    parts = [states[0].transpose(0, 1).split(sizes)[:-1] for states in (query, key, value)]
    attended = []
    for group, q, k, v in zip(packing.groups, *parts, strict=True):
        batch = scaled_dot_product_attention(
            group.spread(q), group.spread(k), group.spread(v), group.mask, dropout, scale=scaling
        )
        attended.append(group.collect(batch))
    attended.append(value.new_zeros(packing.spare, *attended[0].shape[1:]))
    return torch.cat(attended)[None], None


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
