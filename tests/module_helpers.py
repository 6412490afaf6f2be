"""What the tests of single modules share: small models of words, and the way to the peer and back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_st import SentenceTransformer
from ray_st.models import WordEmbeddings
from ray_st.models.tokenizer import WhitespaceTokenizer

WORDS = "weather sunny man pasta query document good bad red blue"
VOCABULARY = ["PADDING_TOKEN", *WORDS.split()]
TEXTS = [
    "The weather is sunny",
    "(pasta) pasta, man!",
    "good good BAD red blue man query",
    "nothing known",
    "document",
]
DIMENSION = 6


def word_embeddings(update: bool = False) -> WordEmbeddings:
    """Random vectors of a few words; that of padding is zero."""
    vectors = torch.randn(len(VOCABULARY), DIMENSION, generator=torch.Generator().manual_seed(0))
    vectors[0] = 0
    return WordEmbeddings(WhitespaceTokenizer(VOCABULARY), vectors, update)


def stirred(module: nn.Module) -> nn.Module:
    """The module with other weights than it starts with."""
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():
        weight.data += torch.randn(weight.shape, generator=generator).to(weight.dtype)
    return module


def there_and_back(
    modules: list[Any], peer: Any, folder: Path, texts: list[Any] | None = None, **options: Any
) -> SentenceTransformer:
    """Saves a model, opens it in the peer, saves it there, opens it here; all embed alike. Returns the last one."""
    texts = TEXTS if texts is None else texts
    mine = SentenceTransformer(modules=modules, device="cpu")
    mine.save(folder / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.SentenceTransformer(str(folder / "ours"), device="cpu")
        theirs.save(str(folder / "theirs"))
        expected = theirs.encode(texts, **options)
    back = SentenceTransformer(folder / "theirs", device="cpu")
    for model in (mine, back):
        np.testing.assert_allclose(model.encode(texts, **options), expected, atol=1e-5)
    assert back.get_embedding_dimension() == mine.get_embedding_dimension() == expected.shape[1]
    return back


TINY_ENCODER = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 1,
}
"""Sizes of an encoder for the words of :func:`save_words`."""


def save_words(folder: Path, **special: Any) -> None:
    """A tokenizer that knows five words, adds nothing and states no longest sequence."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: place for place, word in enumerate(["<unk>", "<pad>", "b", "c", "d"])}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", **special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special).save_pretrained(folder)
