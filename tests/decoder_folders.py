"""Plain folders of transformers with small random language models, as embedders are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
_TEXT = "the a of is query document good bad weather sunny man eats pasta find : instruct"
WORDS = _TEXT.split()
DIMENSION = 32

_SIZES = {
    "hidden_size": DIMENSION,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_LAYERS = ["sliding_attention", "full_attention"]
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 8},
    "gemma3_text": {**_GROUPED, "sliding_window": 8, "layer_types": _LAYERS},
    "qwen2": _GROUPED,
    "llama": _GROUPED,
    "phi3": _GROUPED,
    "gpt2": {"n_embd": DIMENSION, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": DIMENSION},
}
"""Sizes of each kind, by its ``model_type``."""

EMBEDDERS = {"qwen3": (False, True), "mistral": (True, False), "gemma3_text": (True, True)}
"""The kinds that embedders are made of, and whether their tokenizers begin and end a text with a token."""


def with_adapter(model: Any, how: str) -> Any:
    """A model with an adapter: "added" by its own method, put in "by hand", or as it is ("plain")."""
    import peft

    config = peft.LoraConfig(
        task_type="FEATURE_EXTRACTION", r=4, lora_dropout=0.0, target_modules="all-linear"
    )
    torch.manual_seed(0)
    if how == "added":
        model.add_adapter(config)
    elif how == "by hand":
        model[0].auto_model = peft.get_peft_model(model[0].auto_model, config)
    return model


def save_decoder(
    folder: Path,
    kind: str,
    dtype: torch.dtype = torch.float32,
    pad: bool = True,
    template: str | None = None,
    **sizes: Any,
) -> Path:
    """Writes a folder.

    Args:
        folder: The folder.
        kind: The model's type.
        dtype: Type of the stored weights.
        pad: Whether the tokenizer has a padding token.
        template: Its chat template.
        **sizes: Other sizes than those of :data:`KINDS`.
    """
    begins, ends = EMBEDDERS.get(kind, (False, False))
    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    form = " ".join(["<s>"] * begins + ["$A"] + ["</s>"] * ends)
    special = [("<s>", words["<s>"]), ("</s>", words["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=special)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    names |= {"pad_token": "<pad>"} if pad else {}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)
    made.chat_template = template
    made.save_pretrained(folder)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3 if pad else None}
    config = AutoConfig.for_model(kind, **KINDS[kind] | sizes, vocab_size=len(words), **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
    model.to(dtype).save_pretrained(folder)
    return folder
