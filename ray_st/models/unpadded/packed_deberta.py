"""DeBERTa (v2 and v3) without padding: distances of tokens add to its scores, by what the tokens are.

He et al. 2021, arXiv:2006.03654: to the product of query and key come that of the query with the key of their
distance, and that of the key with the query of their distance. Distances are embedded once for all texts of a
row, and no further than the longest text reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    ConvLayer,
    DebertaV2Embeddings,
    DebertaV2Encoder,
    DisentangledSelfAttention,
    make_log_bucket_position,
)

from ray_st.models.unpadded.packed_attention import in_groups, replace_classes
from ray_st.models.unpadded.packed_masks import Band, PackedMask, PackedTexts
from ray_st.util.tensors import to_device


@dataclass(frozen=True)
class Distances:
    """Which embedding belongs to which distance of two tokens; far distances share one.

    Attributes:
        rows: The row of each distance in the table, from the most negative one on, on the host.
        on_device: The same on the device of the model.
        longest: Tokens of the longest text; distances are between -longest and longest.
    """

    rows: list[int]
    on_device: Tensor
    longest: int

    @classmethod
    def of(cls, longest: int, buckets: int, most: int, device: torch.device) -> Distances:
        """The distances within texts of up to so many tokens.

        Args:
            longest: The number.
            buckets: Distances up to half of it have embeddings of their own; -1 if all have.
            most: The largest distance.
            device: Where the model is.
        """
        span = buckets if buckets > 0 else most
        distances = torch.arange(1 - longest, longest, device="cpu")
        if buckets > 0 and most > 0:
            distances = make_log_bucket_position(distances, buckets, most)
        rows = (distances.long() + span).clamp(0, 2 * span - 1)
        return cls(rows.tolist(), to_device(rows, device), longest)

    def reach(self, width: int) -> slice:
        """The rows of the table that texts of this width use."""
        return slice(self.rows[self.longest - width], self.rows[self.longest + width - 2] + 1)

    def between(self, width: int) -> Tensor:
        """The row of the distance of each two tokens of a text of this width, within :meth:`reach` (w, w)."""
        places = torch.arange(width, device=self.on_device.device)
        rows = self.on_device[places[:, None] - places + self.longest - 1]
        return rows - self.rows[self.longest - width]


@dataclass(frozen=True)
class DistanceScores:
    """What distances add to the scores of a group of texts.

    Attributes:
        distances: The distances.
        keys: The keys of the distances of the longest text (heads, rows, d), or None.
        queries: Likewise their queries, or None.
        scaling: Factor of all scores.
    """

    distances: Distances
    keys: Tensor | None
    queries: Tensor | None
    scaling: float

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """What is added to the scores (n, heads, w, w) of queries and keys (n, heads, w, d)."""
        width = query.shape[2]
        reach, first = self.distances.reach(width), self.distances.reach(self.distances.longest).start
        rows = slice(reach.start - first, reach.stop - first)
        places = self.distances.between(width)
        scores = query.new_zeros(())
        if self.keys is not None:
            scores = scores + _picked(query @ self.keys[:, rows].transpose(1, 2), places)
        if self.queries is not None:
            found = _picked(key @ self.queries[:, rows].transpose(1, 2), places.T)
            scores = scores + found.transpose(2, 3)
        return scores * self.scaling


class PackedDebertaAttention(DisentangledSelfAttention):
    """DeBERTa's attention, which also takes a packed row."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | PackedMask,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | Distances | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of tokens (n, t, d) or of a packed row (1, tokens, d), and no weights for a row."""
        if not isinstance(attention_mask, PackedMask):
            attended: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )
            return attended
        states = [
            self._heads(layer(hidden_states)[0])
            for layer in (self.query_proj, self.key_proj, self.value_proj)
        ]
        kinds = sum(kind in self.pos_att_type for kind in ("c2p", "p2c"))
        # The root as transformers takes it, in float32.
        scaling = 1 / float(np.sqrt(np.float32(self.attention_head_size * (1 + kinds))))
        bias = None
        if isinstance(relative_pos, Distances) and rel_embeddings is not None and kinds:
            bias = self._scores(relative_pos, rel_embeddings, scaling)
        dropout = self.dropout.p if self.training else 0.0
        row = in_groups(states, attention_mask, dropout, scaling, bias=bias)
        return row.flatten(1)[None], None

    def _scores(self, distances: Distances, embeddings: Tensor, scaling: float) -> DistanceScores:
        rows = self.pos_dropout(embeddings[distances.reach(distances.longest)])
        shared = self.share_att_key
        keys = queries = None
        if "c2p" in self.pos_att_type:
            layer = self.key_proj if shared else self.pos_key_proj
            keys = self._heads(layer(rows)).transpose(0, 1)
        if "p2c" in self.pos_att_type:
            layer = self.query_proj if shared else self.pos_query_proj
            queries = self._heads(layer(rows)).transpose(0, 1)
        return DistanceScores(distances, keys, queries, scaling)

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.num_attention_heads, self.attention_head_size))


class PackedDebertaEncoder(DebertaV2Encoder):
    """DeBERTa's layers, which measure distances within the texts of a packed row."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | PackedTexts,
        output_hidden_states: bool = True,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The layers' output for embedded tokens (n, t, d) or a packed row (1, tokens, d)."""
        if not isinstance(attention_mask, PackedTexts):
            return super().forward(
                hidden_states,
                attention_mask,
                output_hidden_states,
                output_attentions,
                query_states,
                relative_pos,
                return_dict,
            )
        mask, distances = PackedMask(attention_mask.packing, Band(-1, -1)), None
        if self.relative_attention:
            distances = Distances.of(
                attention_mask.packing.longest,
                self.position_buckets,
                self.max_relative_positions,
                hidden_states.device,
            )
        embeddings, states = self.get_rel_embedding(), [hidden_states]
        for layer in self.layer:
            states.append(layer(states[-1], mask, relative_pos=distances, rel_embeddings=embeddings)[0])
        layers = tuple(states) if output_hidden_states else None
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=layers)


class PackedDebertaEmbeddings(DebertaV2Embeddings):
    """DeBERTa's embeddings, which set padding to zero; a packed row has none."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        mask: Tensor | PackedTexts | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embedded tokens (n, t, d)."""
        plain = None if isinstance(mask, PackedTexts) else mask
        embedded: Tensor = super().forward(input_ids, token_type_ids, position_ids, plain, inputs_embeds)
        return embedded


def replace_attention(model: PreTrainedModel) -> None:
    """Makes a DeBERTa take packed rows, if it has no convolution over tokens."""
    if not any(isinstance(part, ConvLayer) for part in model.modules()):
        replace_classes(model, _PACKED)


def _picked(products: Tensor, places: Tensor) -> Tensor:
    """Picks a token's products with its own distances (n, heads, w, w) from all (n, heads, w, rows)."""
    return products.gather(3, places.expand(*products.shape[:2], *places.shape))


_PACKED: dict[type, type] = {
    DisentangledSelfAttention: PackedDebertaAttention,
    DebertaV2Encoder: PackedDebertaEncoder,
    DebertaV2Embeddings: PackedDebertaEmbeddings,
}
