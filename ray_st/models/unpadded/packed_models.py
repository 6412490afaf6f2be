"""Which models run without padding, and how they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ray_st.models.encoder_loading import setting_of
from ray_st.models.positions import first_columns, with_vectors
from ray_st.models.unpadded.packed_attention import IMPLEMENTATION
from ray_st.models.unpadded.packed_masks import PackedMask, PackedTexts
from ray_st.models.unpadded.packed_rows import Packing


def _by_column(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    return (columns - first_columns(mask)[:, None]).clamp(min=0)


def _by_count(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)
    # The id of padding may differ from pad_id, hence the comparison with the first column.
    real = (ids != pad_id) & (columns >= first_columns(mask)[:, None])
    return real.cumsum(dim=1) * real + pad_id


def _by_count_from_one(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    # MPNet takes 1 for padding, whatever its configuration says.
    return _by_count(ids, mask, 1)


POSITIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor] | None] = {
    "albert": _by_column,
    "bert": _by_column,
    "camembert": _by_count,
    "cohere": _by_column,
    "cohere2": _by_column,
    "data2vec-text": _by_count,
    "deberta-v2": _by_column,
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
    "mpnet": _by_count_from_one,
    "mt5": None,
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
    "t5": None,
    "ultrabert": _by_column,
    "xlm-roberta": _by_count,
    "xlm-roberta-xl": _by_count,
}
"""How the models that can run without padding number their positions, by ``model_type``; None for not at all.

Nothing in these models but attention mixes tokens, all attention goes through transformers' interface (but
MPNet's and DeBERTa's, which is replaced) with masks from its ``masking_utils``, and positions come from
``position_ids``, or as T5's from the distance between two tokens. What follows from the configuration is not
listed here: the direction of attention, windows, soft caps, numbers of heads.
"""


def prepare(model: PreTrainedModel) -> None:
    """Makes an encoder run without padding, if it is in :data:`POSITIONS` and has its default attention."""
    kind, config = model.config.model_type, model.config
    default = "sdpa" if model._supports_sdpa else "eager"
    if kind not in POSITIONS or config._attn_implementation != default:
        return
    if kind in ("deberta-v2", "mpnet"):
        _with_own_attention(kind)(model)
        return
    model.set_attn_implementation(IMPLEMENTATION)
    for layer in model.modules():
        if _own_bias(layer) is not None:
            layer.register_forward_pre_hook(_give_bias, with_kwargs=True)


def _with_own_attention(kind: str) -> Callable[[PreTrainedModel], None]:
    """What replaces the attention of a model that does not go through transformers' interface."""
    if kind == "mpnet":
        from ray_st.models.unpadded import packed_mpnet

        return packed_mpnet.replace_attention
    from ray_st.models.unpadded import packed_deberta

    return packed_deberta.replace_attention


def _own_bias(layer: object) -> Callable[[int, int], Tensor] | None:
    """What computes the bias of distances in T5's first layer, for numbers of queries and keys."""
    match layer:
        case object(compute_bias=compute, has_relative_attention_bias=True) if callable(compute):
            return compute
    return None


def _give_bias(
    layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Gives T5's first layer the bias for its longest text, where it would compute one as wide as the row."""
    mask, compute = options.get("mask"), _own_bias(layer)
    if compute is not None and isinstance(mask, PackedMask):
        width = mask.packing.longest
        return args, {**options, "position_bias": compute(width, width)}
    return args, options


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
    output = run(**packed_inputs(model, inputs, packing))
    return with_vectors(output, packing.pad)


def packed_inputs(model: PreTrainedModel, inputs: Mapping[str, Tensor], packing: Packing) -> dict[str, Any]:
    """What an encoder is called with to run on the real tokens of a batch; see :func:`run_packed`."""
    mask = inputs["attention_mask"]
    given: dict[str, Any] = {
        name: packing.pack(value) for name, value in inputs.items() if name != "attention_mask"
    }
    number = POSITIONS[model.config.model_type]
    if number is not None:
        positions = number(inputs["input_ids"], mask, model.config.pad_token_id or 0)
        given["position_ids"] = packing.pack(positions)
    return {**given, "attention_mask": PackedTexts(packing)}
