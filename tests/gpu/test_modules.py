"""Every module of a model on a device: vectors and gradients of the CPU, also for decoders padded on the left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2Model

from module_helpers import DIMENSION, TEXTS, VOCABULARY, save_words, word_embeddings
from ray_st import models
from ray_st.models import SentenceTransformer
from ray_st.util.tensors import batch_to_device


def tokenizer_of(encoder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(encoder / "tokenizer.json"))


def routed(kind: str) -> Any:
    words, pooling = word_embeddings(), models.Pooling(DIMENSION)
    ends = [models.Dense(DIMENSION, 3), models.Dense(DIMENSION, 3)]
    return getattr(models, kind)({"query": [words, pooling, ends[0]], "document": [words, pooling, ends[1]]})


def layers(encoder: Path) -> list[Any]:
    whole = models.Transformer(encoder, config_args={"output_hidden_states": True})
    return [whole, models.WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1), models.Pooling(32)]


def after_words(*modules: Any) -> list[Any]:
    return [word_embeddings(update=True), models.Pooling(DIMENSION), *modules]


MODULES: dict[str, Callable[[Path], list[Any]]] = {
    "Asym": lambda encoder: [routed("Asym")],
    "BoW": lambda encoder: [models.BoW(VOCABULARY, {"weather": 2.5}), models.Dense(len(VOCABULARY), 3)],
    "CNN": lambda encoder: [word_embeddings(), models.CNN(DIMENSION, 4, [1, 3]), models.Pooling(8)],
    "Dense": lambda encoder: after_words(models.Dense(DIMENSION, 3)),
    "Dropout": lambda encoder: after_words(models.Dropout(0.0)),
    "LSTM": lambda encoder: [word_embeddings(), models.LSTM(DIMENSION, 4), models.Pooling(8)],
    "LayerNorm": lambda encoder: after_words(models.LayerNorm(DIMENSION)),
    "Normalize": lambda encoder: after_words(models.Normalize()),
    "Pooling": lambda encoder: [
        models.Transformer(encoder),
        models.Pooling(
            32, pooling_mode=["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
        ),
    ],
    "Router": lambda encoder: [routed("Router")],
    "StaticEmbedding": lambda encoder: [models.StaticEmbedding(tokenizer_of(encoder), embedding_dim=8)],
    "Transformer": lambda encoder: [models.Transformer(encoder), models.Pooling(32)],
    "WeightedLayerPooling": layers,
    "WordEmbeddings": lambda encoder: after_words(),
    "WordWeights": lambda encoder: [
        word_embeddings(update=True),
        models.WordWeights(VOCABULARY, {"weather": 2.0}),
        models.Pooling(DIMENSION),
    ],
}


def test_every_module_is_here() -> None:
    assert models.MODULES.keys() - {"CLIPModel"} == MODULES.keys()  # which needs another library


def step(model: Any, device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.to(device).train()
    found = model(batch_to_device(model.tokenize(TEXTS), device))["sentence_embedding"]
    assert found.device == device
    found.square().sum().backward()
    weights = dict(model.named_parameters())
    gradients = {name: weight.grad.cpu() for name, weight in weights.items() if weight.grad is not None}
    return found.detach().cpu(), gradients


def check(make: Callable[[], Any], device: torch.device) -> None:
    """Compares embeddings and gradients on a device with those on the CPU."""
    torch.manual_seed(0)
    expected, gradients = step(make(), torch.device("cpu"))
    torch.manual_seed(0)
    model = make()
    found, theirs = step(model, device)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert theirs.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-3, atol=1e-4)
    model.eval()
    assert model.encode(TEXTS, convert_to_tensor=True, batch_size=2).device == device


@pytest.mark.parametrize("name", MODULES)
def test_a_step(name: str, device: torch.device, tiny_encoder: Path) -> None:
    check(lambda: SentenceTransformer(modules=MODULES[name](tiny_encoder), device="cpu"), device)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_with_its_last_token(side: str, device: torch.device, tmp_path: Path) -> None:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=5, pad_token_id=1, **sizes, **dropout)).save_pretrained(tmp_path)
    save_words(tmp_path, padding_side=side)
    check(
        lambda: SentenceTransformer(
            modules=[models.Transformer(tmp_path), models.Pooling(16, "lasttoken")], device="cpu"
        ),
        device,
    )
