"""The encoder of a model that has a decoder too: embeddings need no decoder, and many want its inputs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

# Models that make the decoder's inputs from the text. Their folders, here and at the peer, embed with both halves.
_WHOLE = {"bart", "bigbird_pegasus", "fsmt", "led", "mbart", "mvp", "plbart"}


@dataclass(frozen=True)
class EncoderHalf:
    """How an encoder is loaded without its decoder.

    Args:
        family: Its class.
        config: Its configuration.
        key_mapping: Patterns of the names that its weights have in a folder of the whole model, and their names in the
            encoder; a folder of the encoder alone has the latter.
        constant: Names of weights that are neither trained nor, in some folders, there: tables of sines.
    """

    family: type[PreTrainedModel]
    config: PreTrainedConfig
    key_mapping: Mapping[str, str]
    constant: frozenset[str] = frozenset()


def encoder_half(config: PreTrainedConfig) -> EncoderHalf | None:
    """The encoder of a model with a decoder; None if the model is loaded whole."""
    two = config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False)
    whole: Any = AutoModel._model_mapping.get(type(config), None) if two else None
    if not isinstance(whole, type) or config.model_type in _WHOLE:
        return None
    return _with_its_class(whole, config) or _taken_out(whole, config)


def _with_its_class(whole: type[PreTrainedModel], config: PreTrainedConfig) -> EncoderHalf | None:
    """A class for the encoder alone with the whole model's names of weights, such as ``T5EncoderModel``."""
    for name, family in vars(inspect.getmodule(whole)).items():
        if name.endswith("EncoderModel") and inspect.isclass(family) and issubclass(family, PreTrainedModel):
            if config.model_type == "t5gemma":  # the only one that asks its configuration what it is
                config = deepcopy(config)
                config.is_encoder_decoder = False
            return EncoderHalf(family, config, {})
    return None


def _taken_out(whole: type[PreTrainedModel], config: PreTrainedConfig) -> EncoderHalf | None:
    """The encoder's own class; its weights' names are the whole model's without the encoder's."""
    with torch.device("meta"):
        model = whole(config)
    encoder = model.get_encoder()
    if encoder is model or not isinstance(encoder, PreTrainedModel):
        return None
    name = next(name for name, module in model.named_modules() if module is encoder)
    front = rf"^(?:{re.escape(whole.base_model_prefix)}\.)?"
    names = {front + re.escape(f"{name}."): ""}
    for target, source in (model._tied_weights_keys or {}).items():  # embeddings shared with the decoder
        if target.startswith(f"{name}."):
            names[front + re.escape(source) + "$"] = target.removeprefix(f"{name}.")
    constant = frozenset(name for name, weight in encoder.named_parameters() if not weight.requires_grad)
    return EncoderHalf(type(encoder), encoder.config, names, constant)
