"""Which models run without padding, and how they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ray_st.models.encoder_loading import setting_of
from ray_st.models.positions import first_columns, with_vectors
from ray_st.models.unpadded.packed_attention import IMPLEMENTATION
from ray_st.models.unpadded.packed_masks import PackedTexts
from ray_st.models.unpadded.packed_rows import Packing


def _by_column(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    return (columns - first_columns(mask)[:, None]).clamp(min=0)


def _by_count(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    # The id of padding may differ from pad_id, hence the comparison with the first column.
    real = (ids != pad_id) & (columns >= first_columns(mask)[:, None])
    return real.cumsum(dim=1) * real + pad_id


POSITIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "albert": _by_column,
    "bert": _by_column,
    "camembert": _by_count,
    "cohere": _by_column,
    "cohere2": _by_column,
    "data2vec-text": _by_count,
    "distilbert": _by_column,
    "electra": _by_column,
    "embedding_gemma2_text": _by_column,
    "ernie": _by_column,
    "eurobert": _by_column,
    "exaone4": _by_column,
    "gemma": _by_column,
    "gemma2": _by_column,
    "gemma3_text": _by_column,
    "glm4": _by_column,
    "gpt_neox": _by_column,
    "granite": _by_column,
    "gte": _by_column,
    "jina_embeddings_v3": _by_column,
    "llama": _by_column,
    "ministral": _by_column,
    "mistral": _by_column,
    "modernbert": _by_column,
    "modernbert-decoder": _by_column,
    "nomic_bert": _by_column,
    "olmo2": _by_column,
    "olmo3": _by_column,
    "opt": _by_column,
    "phi3": _by_column,
    "qwen2": _by_column,
    "qwen3": _by_column,
    "roberta": _by_count,
    "roberta-prelayernorm": _by_count,
    "smollm3": _by_column,
    "starcoder2": _by_column,
    "ultrabert": _by_column,
    "xlm-roberta": _by_count,
    "xlm-roberta-xl": _by_count,
}
"""How the models that can run without padding number their positions, by ``model_type``.

Nothing in these models but attention mixes tokens, all attention goes through transformers' interface with
masks from its ``masking_utils``, and positions come from ``position_ids``. What follows from the
configuration is not listed here: the direction of attention, windows, soft caps, numbers of heads.
"""


def prepare(model: PreTrainedModel) -> None:
    """Makes an encoder run without padding, if it can: one of :data:`POSITIONS` with its default attention."""
    default = "sdpa" if model._supports_sdpa else "eager"
    if model.config.model_type in POSITIONS and model.config._attn_implementation == default:
        model.set_attn_implementation(IMPLEMENTATION)


def is_prepared(model: PreTrainedModel) -> bool:
    """Whether :func:`prepare` had an effect, and still has."""
    return setting_of(model.config, "_attn_implementation") == IMPLEMENTATION


def run_packed(
    run: Callable[..., Any], model: PreTrainedModel, inputs: Mapping[str, Tensor], packing: Packing
) -> Any:
    """Runs an encoder on the real tokens of a batch.

    Args:
        run: The encoder, called with the inputs.
        model: The encoder, prepared.
        inputs: ``input_ids`` and ``attention_mask`` (n, t), and other tensors of that shape.
        packing: The packing of the batch.

    Returns:
        The encoder's output, with ``last_hidden_state`` (n, t, d) and, if requested, ``hidden_states``. It is
        zero at padding; elsewhere it equals the output for the padded batch with each text at the first
        column.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = POSITIONS[model.config.model_type](ids, mask, model.config.pad_token_id or 0)
    others = {name: packing.pack(value) for name, value in inputs.items() if name != "attention_mask"}
    texts = PackedTexts(packing)
    output = run(**others, attention_mask=texts, position_ids=packing.pack(positions))
    return with_vectors(output, packing.pad)
