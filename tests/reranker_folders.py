"""Folders of transformers with small random sequence classifiers, as rerankers are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

TEXT = "the a of is query document good bad weather sunny man eats pasta find what where"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "max_relative_positions": 32,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZES, "type_vocab_size": 2},
    "roberta": {**_SIZES, "type_vocab_size": 1},
    "xlm-roberta": {**_SIZES, "type_vocab_size": 1},
    "mpnet": _SIZES,
    "electra": {**_SIZES, "embedding_size": 32, "type_vocab_size": 2},
    "albert": {**_SIZES, "embedding_size": 16, "type_vocab_size": 2},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 66},
    "deberta-v2": {**_SIZES, **_DEBERTA},
    "modernbert": {**_SIZES, "global_attn_every_n_layers": 2, "local_attention": 8},
    "qwen3": _GROUPED,
    "llama": _GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 66},
}
"""Sizes of each kind, by its ``model_type``."""

DECODERS = {"qwen3", "llama", "gpt2"}
TYPED = {"bert", "electra", "albert"}
"""The kinds whose tokenizers tell the two texts apart by token types."""

_NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "pooler_dropout": 0.0,
}


def pair_tokenizer(kind: str, side: str = "right", **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of words with the pairs of a kind of model: with token types, with two ends between, or bare."""
    words = {word: number for number, word in enumerate([*SPECIAL, *TEXT.split()])}
    made = Tokenizer(models.WordLevel(words, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind in DECODERS:
        single, pair = "$A", "$A $B"
    elif kind in TYPED:
        single, pair = "<s> $A </s>", "<s> $A </s> $B:1 </s>:1"
    else:
        single, pair = "<s> $A </s>", "<s> $A </s> </s> $B </s>"
    special = [(word, words[word]) for word in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    inputs = (
        ["input_ids", "token_type_ids", "attention_mask"]
        if kind in TYPED
        else ["input_ids", "attention_mask"]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side=side, model_input_names=inputs, **{**names, **options}
    )


def save_classifier(
    folder: Path, kind: str, num_labels: int = 1, side: str = "right", head: bool = True, **more: Any
) -> Path:
    """Writes a folder.

    Args:
        folder: The folder.
        kind: The model's type.
        num_labels: Outputs of the head.
        side: The tokenizer's padding side.
        head: Whether it is a classifier; otherwise a plain encoder.
        **more: More settings of the configuration.
    """
    tokenizer = pair_tokenizer(kind, side)
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    settings = {**KINDS[kind], **_NO_DROPOUT, "vocab_size": len(tokenizer), **ids, **more}
    config = AutoConfig.for_model(kind, num_labels=num_labels, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        family = AutoModelForSequenceClassification if head else AutoModel
        model = family.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return folder


def text_pairs(count: int, longest: int = 25, seed: int = 0) -> list[tuple[str, str]]:
    """Random pairs of texts of up to so many words."""
    rng = np.random.default_rng(seed)
    words = TEXT.split()

    def text() -> str:
        return " ".join(rng.choice(words, rng.integers(1, longest + 1)))

    return [(text(), text()) for _ in range(count)]
