"""Denoising auto-encoder: a decoder reconstructs a text from the embedding of a damaged copy."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32, widen
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import first_encoder, tokenizer_of
from ray_st.util.shards import check_shards
from ray_st.util.tensors import batch_to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class DenoisingAutoEncoderLoss(Loss):
    """Cross entropy of a decoder that predicts a text's tokens from the embedding of its damaged copy alone.

    The loss owns the decoder: a language model with cross attention to the embedding. The value is the mean
    over the tokens of the cluster's batch if the loss is bound to the other ranks, else of this rank's batch.

    Inputs: (damaged text, original text); no labels.

    Args:
        model: The encoder, a SentenceTransformer whose first module holds an encoder of transformers as
            ``auto_model`` and a ``tokenizer``.
        decoder_name_or_path: Name or folder of the decoder; needed and used if the weights are not tied.
        tie_encoder_decoder: Whether the decoder is of the encoder's kind and shares all weights that the
            encoder has; weights are tied to the encoder's current ones.

    Raises:
        ValueError: If no decoder is named, it has no cross attention, or it does not fit the encoder.

    References:
        Wang, Reimers and Gurevych 2021, arXiv:2104.06979.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    cites = ("wang-2021-TSDAE",)

    def __init__(
        self, model: nn.Module, decoder_name_or_path: str | None = None, tie_encoder_decoder: bool = True
    ) -> None:
        super().__init__(model)
        encoder, self.tokenizer_encoder = _encoder_of(model)
        name = _decoder_name(encoder, decoder_name_or_path, tie_encoder_decoder)
        self.tokenizer_decoder, self.decoder = _load_decoder(name, encoder)
        self.need_retokenization = self.tokenizer_decoder.get_vocab() != self.tokenizer_encoder.get_vocab()
        if tie_encoder_decoder:
            if self.need_retokenization:
                self.tokenizer_decoder, self.need_retokenization = self.tokenizer_encoder, False
                self.decoder.resize_token_embeddings(len(self.tokenizer_decoder))
            tie_weights(encoder, self.decoder)
        self.decoder.to(next(encoder.parameters()).device)

    @property
    def encoder(self) -> nn.Module:
        """The model in training."""
        return self.model

    def embed(self, sentence_features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Embeds the damaged texts."""
        return self.run(self.model, sentence_features[:1])

    def columns(self, features: Sequence[Mapping[str, Any]], labels: Tensor | None = None) -> Columns:
        """Embeds the damaged texts and counts the tokens per row of the cluster's batch; idle ranks too."""
        columns = super().columns(features, labels)
        damaged, target = columns.features
        target = self._retokenize(target) if self.need_retokenization else target
        tokens = (target["attention_mask"][:, 1:] != 0).sum(1)
        # Every rank calls the gather, also an idle one: the call is a collective.
        others = tokens if self._gather is None else self._gather(tokens)[0]
        self._tokens_a_row = others.sum().clamp(min=1) / len(others)
        return replace(columns, features=(damaged, target))

    def compute(self, columns: Columns) -> Tensor:
        """Mean over the tokens of the original texts, without padding and the first token."""
        target = columns.features[1]
        ids = target["input_ids"]
        logits = self._logits(columns.mine[0], ids[:, :-1])
        wanted = ids[:, 1:].masked_fill(target["attention_mask"][:, 1:] == 0, -100)
        losses = F.cross_entropy(at_least_float32(logits).transpose(1, 2), wanted, reduction="sum")
        return losses / (self._tokens_a_row * len(ids))

    def _logits(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        states = widen(embeddings, self.decoder.config.hidden_size)[:, None]
        # Without a mask all states are seen. The values of a mask would be read, for which the host waits.
        return self.decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits

    def _retokenize(self, features: Mapping[str, Any]) -> dict[str, Any]:
        ids = features["input_ids"]
        texts = self.tokenizer_encoder.batch_decode(ids, skip_special_tokens=True)
        tokens = self.tokenizer_decoder(texts, padding=True, truncation=True, return_tensors="pt")
        return batch_to_device(dict(tokens), ids.device)

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {
            "decoder_name_or_path": self.decoder.config._name_or_path,
            "need_retokenization": self.need_retokenization,
        }


def tie_weights(encoder: nn.Module, decoder: PreTrainedModel) -> None:
    """Gives a decoder the encoder's weights wherever both have one of the same name.

    Args:
        encoder: An encoder of transformers.
        decoder: A causal language model of transformers, around a base model of the encoder's kind.
    """
    modules = dict(decoder.base_model.named_modules())
    tied = 0
    for name, weight in encoder.named_parameters():
        owner, _, attribute = name.rpartition(".")
        if owner in modules and attribute in dict(modules[owner].named_parameters(recurse=False)):
            modules[owner].register_parameter(attribute, weight)
            tied += 1
    if not tied:
        logger.warning("No weight of the decoder has the name of one of the encoder's: nothing is tied.")
    if decoder.config.tie_word_embeddings:
        decoder.get_output_embeddings().weight = decoder.get_input_embeddings().weight


def _encoder_of(model: nn.Module) -> tuple[PreTrainedModel, Any]:
    encoder, tokenizer = first_encoder(model), tokenizer_of(model)
    if encoder is None or tokenizer is None:
        raise ValueError(
            "DenoisingAutoEncoderLoss needs a model whose first module has an encoder of transformers and "
            f"a tokenizer; {type(model).__name__} has none."
        )
    return encoder, tokenizer


def _decoder_name(encoder: PreTrainedModel, name: str | None, tied: bool) -> str:
    if tied:
        if name is not None:
            logger.warning(
                "decoder_name_or_path is not used: with tie_encoder_decoder the decoder is the encoder's."
            )
        return str(encoder.config._name_or_path)
    if name is None:
        raise ValueError("Without tie_encoder_decoder, decoder_name_or_path must name a decoder.")
    return name


def _load_decoder(name: str, encoder: PreTrainedModel) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if Path(name).is_dir():
        check_shards(Path(name))
    tokenizer = AutoTokenizer.from_pretrained(name)
    config = AutoConfig.from_pretrained(name)
    config.is_decoder = config.add_cross_attention = True
    if config.hidden_size != encoder.config.hidden_size:
        raise ValueError(
            f"The decoder {name} has {config.hidden_size} dimensions, the encoder "
            f"{encoder.config.hidden_size}; they must be equal."
        )
    decoder = AutoModelForCausalLM.from_pretrained(name, config=config, use_safetensors=True)
    if not _attends(decoder):
        raise ValueError(
            f"{type(decoder).__name__}, the decoder {name}, has no cross attention: it would ignore the "
            "embedding and learn to predict texts from themselves. Without tie_encoder_decoder, "
            "decoder_name_or_path may name one that has, such as a BERT, a RoBERTa or a GPT-2."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        decoder.config.pad_token_id = decoder.config.eos_token_id
    return tokenizer, decoder


def _attends(decoder: PreTrainedModel) -> bool:
    """Whether a decoder's output depends on an encoder's states, tested by its gradient.

    Configurations don't show it: ``add_cross_attention`` can be set on any, and many models accept encoder
    states and ignore them.
    """
    if not {"encoder_hidden_states", "kwargs"} & inspect.signature(decoder.forward).parameters.keys():
        return False
    states = torch.ones(1, 1, decoder.config.hidden_size, dtype=decoder.dtype, requires_grad=True)
    ids = torch.zeros(1, 2, dtype=torch.long)
    with torch.enable_grad():
        logits = decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits
        (gradient,) = torch.autograd.grad(logits.square().sum(), states, allow_unused=True)
    return gradient is not None and bool(gradient.any())
