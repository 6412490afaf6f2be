"""Encoder settings from the training arguments: noise on embeddings, compilation."""

from __future__ import annotations

from typing import Any

from torch.utils.hooks import RemovableHandle
from transformers.integrations.neftune import neftune_post_forward_hook

from ray_st.models.module import auto_model_of
from ray_st.models.stack import Stack
from ray_st.training_args import SentenceTransformerTrainingArguments


def add_noise(model: Stack, alpha: float | None) -> RemovableHandle | None:
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
    encoder: Any = auto_model_of(model.first)  # may be a wrapper of peft
    if encoder is None:
        raise ValueError(
            f"neftune_noise_alpha={alpha} needs an encoder with token embeddings; "
            f"{type(model.first).__name__} has none."
        )
    embeddings = encoder.get_input_embeddings()
    embeddings.neftune_noise_alpha = alpha
    handle: RemovableHandle = embeddings.register_forward_hook(neftune_post_forward_hook)
    return handle


def compile_encoder(model: Stack, args: SentenceTransformerTrainingArguments) -> None:
    """Compiles the encoder, or the whole model if it has none, in place, as set by ``torch_compile…``.

    Args:
        model: The model.
        args: Training arguments.
    """
    if args.torch_compile:
        encoder = auto_model_of(model.first)
        (model if encoder is None else encoder).compile(
            backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode
        )
