"""Runs an encoder without padding: all real tokens of a batch in one row, each text attending to itself alone.

Most of an encoder's time goes into layers that see one token at a time. Padding costs them as much as text; here they
never see it. Only attention needs to know where texts begin and end: it works on groups of texts of similar length.
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

from ray_st.models.positions import first_columns
from ray_st.util.chunks import cheapest_chunks

IMPLEMENTATION = "sdpa_unpadded"
"""The name under which transformers knows this attention; a batch with padding goes the way of "sdpa"."""

GROUP_TOKENS = 64
"""What one more group of texts costs in attention, in padded tokens.

Measured for the CPU with all-MiniLM-L6-v2: from 20 to 200 makes no difference that can be seen.
"""


def rounded(tokens: int) -> int:
    """A number of tokens rounded up, by at most 1/32 from 256 on: 32 numbers from each power of two to the next.

    Matrix libraries keep what they prepared for each shape: oneDNN half a MiB for each product.
    """
    step = max(8, 1 << max(tokens.bit_length() - 6, 0))
    return -(-tokens // step) * step


def _by_column(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    return (columns - first_columns(mask)[:, None]).clamp(min=0)


def _by_count(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    real = (ids != pad_id) & (
        columns >= first_columns(mask)[:, None]
    )  # padding may have another id than pad_id
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
    """Texts of similar length whose tokens stand one after the other.

    Attributes:
        tokens: How many tokens they have.
        places: Which of them stands where, once padded (n, w); None where all have the same length.
        real: Where there is a token (n, w); None where all have the same length.
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
        """What each token may attend to (n, 1, 1, w); None for everything."""
        return None if self.real is None else self.real[:, None, None]


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a padded batch (n, t) stand once they are laid one after the other.

    Attributes:
        tokens: Their places in the flattened batch, sorted by the length of their texts.
        spare: How many tokens follow that belong to no text, up to a rounded number; attention passes them over.
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
        """The real tokens of a batch (n, t) and the spare ones, copies of the first, as one row (1, tokens + spare)."""
        places = torch.cat([self.tokens, self.tokens[:1].expand(self.spare)])
        return batch.reshape(-1).index_select(0, places)[None]

    def pad(self, vectors: Tensor) -> Tensor:
        """The tokens' vectors (1, tokens + spare, d) as a padded batch (n, t, d), zero where there is no token."""
        rows, width = self.shape
        batch = vectors.new_zeros(rows * width, vectors.shape[-1])
        return batch.index_copy(0, self.tokens, vectors[0, : len(self.tokens)]).unflatten(0, self.shape)


def can_unpad(model: PreTrainedModel) -> bool:
    """Whether an encoder can run without padding: one of :data:`POSITIONS` whose attention nobody chose otherwise."""
    config = model.config
    return config.model_type in POSITIONS and getattr(config, "is_decoder", False) is False


def prepare(model: PreTrainedModel) -> None:
    """Lets an encoder that can run without padding, and whose attention is "sdpa", do so."""
    if can_unpad(model) and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(IMPLEMENTATION)


def is_prepared(model: PreTrainedModel) -> bool:
    """Whether :func:`prepare` had an effect, and still has."""
    return getattr(model.config, "_attn_implementation", None) == IMPLEMENTATION


def has_padding(inputs: Mapping[str, Tensor]) -> bool:
    """Whether a batch is made of token ids with padding among them."""
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
        inputs: ``input_ids`` and ``attention_mask`` (n, t), and what else has that shape.

    Returns:
        The encoder's output, with ``last_hidden_state`` (n, t, d) and, if they were asked for, ``hidden_states``. It
        is zero at padding. Elsewhere it equals what the padded batch gives, each text at the first column.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    packing = Packing.of(mask)
    positions = POSITIONS[model.config.model_type](ids, mask, model.config.pad_token_id or 0)
    others = {name: packing.pack(value) for name, value in inputs.items() if name != "attention_mask"}
    output = model(**others, position_ids=packing.pack(positions), packing=packing, return_dict=True)
    for name in ("last_hidden_state", "hidden_states"):
        if output.get(name) is not None:
            value = output[name]
            output[name] = packing.pad(value) if isinstance(value, Tensor) else tuple(map(packing.pad, value))
    return output


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
    """Attention in the form that transformers calls: queries, keys and values (1, heads, tokens, d).

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
