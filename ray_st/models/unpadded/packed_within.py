"""Runs the encoder inside of a larger model without padding: the head over it gets the usual padded batch.

The larger model is called with a padded batch, whose attention mask carries the packing. Hooks before and
after the encoder pack its inputs and pad its vectors, so that the model's own code reads the same values at
the same places as ever.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ray_st.models.positions import with_vectors
from ray_st.models.unpadded.packed_masks import PackedTexts
from ray_st.models.unpadded.packed_models import is_prepared, packed_inputs, prepare
from ray_st.models.unpadded.packed_rows import Packing

_PACKING = "_ray_st_packing"
_TOKENS = ("input_ids", "token_type_ids")


def prepare_within(model: PreTrainedModel) -> None:
    """Makes the encoder in a model run without padding, if it can; see :func:`prepare`.

    Args:
        model: A model whose forward passes its attention mask on to ``model.base_model``.
    """
    encoder = model.base_model
    if encoder is model or model.config.is_encoder_decoder or not isinstance(encoder, PreTrainedModel):
        return
    prepare(encoder)
    if is_prepared(encoder):
        encoder.register_forward_pre_hook(_pack, with_kwargs=True)
        encoder.register_forward_hook(_pad, with_kwargs=True)


def carrying(mask: Tensor, packing: Packing) -> Tensor:
    """An attention mask (n, t) that tells a prepared encoder how to pack its batch.

    Args:
        mask: The mask; left unchanged.
        packing: The packing of the batch.
    """
    carrier = mask.view_as(mask)
    vars(carrier)[_PACKING] = packing
    return carrier


def _pack(
    encoder: PreTrainedModel, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Before the encoder: its inputs without padding, if the mask carries a packing."""
    names = inspect.signature(encoder.forward).parameters
    given = {**dict(zip(names, args, strict=False)), **options}
    mask = given.get("attention_mask")
    if not isinstance(mask, Tensor) or _PACKING not in vars(mask):
        return None
    packing: Packing = vars(mask)[_PACKING]
    tokens = {name: given[name] for name in _TOKENS if isinstance(given.get(name), Tensor)}
    return (), {**given, **packed_inputs(encoder, {**tokens, "attention_mask": mask}, packing)}


def _pad(
    encoder: PreTrainedModel, args: tuple[Any, ...], options: dict[str, Any], output: ModelOutput
) -> ModelOutput | None:
    """After the encoder: its vectors as a padded batch, if its inputs were packed."""
    mask = options.get("attention_mask")
    if not isinstance(mask, PackedTexts):
        return None
    output = with_vectors(output, mask.packing.pad)
    if output.get("pooler_output") is not None:  # it was made of the first token of the whole row
        output["pooler_output"] = _pooled(encoder, output["last_hidden_state"])
    return output


def _pooled(encoder: Any, vectors: Tensor) -> Tensor:
    """The output of an encoder's own pooling layer for a padded batch (n, t, d), with texts at the left."""
    if isinstance(encoder.pooler, nn.Linear):  # ALBERT's is not a module of its own
        activated: Tensor = encoder.pooler_activation(encoder.pooler(vectors[:, 0]))
        return activated
    pooled: Tensor = encoder.pooler(vectors)
    return pooled
