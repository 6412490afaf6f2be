"""MPNet without padding: it has an attention of its own, and a bias of distances that is as wide as a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention

from ray_st.models.unpadded.packed_attention import Distant, in_groups, replace_classes
from ray_st.models.unpadded.packed_masks import PackedMask


class PackedMPNetAttention(MPNetSelfAttention):
    """MPNet's attention, which also takes a packed row."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | PackedMask | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **options: Any,
    ) -> tuple[Tensor, ...]:
        """Attention of tokens (n, t, d) or of a packed row (1, tokens, d), in a tuple."""
        if not isinstance(attention_mask, PackedMask):
            if attention_mask is not None:
                least = torch.finfo(hidden_states.dtype).min
                attention_mask = hidden_states.new_zeros(()).masked_fill(~attention_mask, least)
            return super().forward(hidden_states, attention_mask, position_bias, output_attentions)
        states = [
            layer(hidden_states)[0].unflatten(-1, (-1, self.attention_head_size))
            for layer in (self.q, self.k, self.v)
        ]
        dropout = self.dropout.p if self.training else 0.0
        bias = None if position_bias is None else Distant(position_bias)
        attended = in_groups(states, attention_mask, dropout, bias=bias)
        return (self.o(attended.flatten(1)[None]),)


class PackedMPNetEncoder(MPNetEncoder):
    """MPNet's layers, whose bias is as wide as the longest text of a packed row."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | PackedMask | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = False,
        **options: Any,
    ) -> Any:
        """The layers' output for embedded tokens (n, t, d) or a packed row (1, tokens, d)."""
        if not isinstance(attention_mask, PackedMask):
            return super().forward(
                hidden_states, attention_mask, output_attentions, output_hidden_states, return_dict, **options
            )
        bias = self.compute_position_bias(hidden_states[:, : attention_mask.packing.longest])
        states = [hidden_states]
        for layer in self.layer:
            states.append(layer(states[-1], attention_mask, bias)[0])
        layers = tuple(states) if output_hidden_states else None
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=layers)


def replace_attention(model: PreTrainedModel) -> None:
    """Makes an MPNet take packed rows."""
    replace_classes(model, {MPNetSelfAttention: PackedMPNetAttention, MPNetEncoder: PackedMPNetEncoder})
