"""Encoder settings from the training arguments: noise on embeddings, compilation."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.integrations.neftune import neftune_post_forward_hook

from ray_st.models.module import encoder_in, first_of
from ray_st.training_args import SentenceTransformerTrainingArguments


def add_noise(model: nn.Module, alpha: float | None) -> RemovableHandle | None:
    """Adds noise to token embeddings while training (NEFTune, https://arxiv.org/abs/2310.05914).

    Args:
        model: The model.
        alpha: Strength of the noise; None for none.

    Returns:
        A handle that removes the noise.

    Raises:
        ValueError: If the model has no encoder with token embeddings.
    """
    if alpha is None:
        return None
    encoder: Any = encoder_in(model)  # may be a wrapper of peft
    if encoder is None:
        raise ValueError(
            f"neftune_noise_alpha={alpha} needs an encoder with token embeddings; "
            f"{type(first_of(model)).__name__} has none."
        )
    embeddings = encoder.get_input_embeddings()
    embeddings.neftune_noise_alpha = alpha
    handle: RemovableHandle = embeddings.register_forward_hook(neftune_post_forward_hook)
    return handle


def compile_encoder(model: nn.Module, args: SentenceTransformerTrainingArguments) -> None:
    """Compiles the encoder's layers in place, as set by ``torch_compile…``.

    Layers are alike, so that one compilation serves all of them, and what comes before them (masks, the
    layout of packed rows) is Python that need not be compiled. An encoder without a list of layers is
    compiled as a whole; so is a model without an encoder.

    Args:
        model: The model.
        args: Training arguments.
    """
    if not args.torch_compile:
        return
    encoder = encoder_in(model)
    for part in [model] if encoder is None else layers_of(encoder) or [encoder]:
        part.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """The modules in an encoder's lists of modules; those within others are left out."""
    lists = [part for part in encoder.modules() if isinstance(part, nn.ModuleList)]
    found = [layer for part in lists for layer in part]
    inner = {id(part) for layer in found for part in list(layer.modules())[1:]}
    return [layer for layer in found if id(layer) not in inner]
