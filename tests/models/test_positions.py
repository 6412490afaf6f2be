"""A text's vectors don't depend on padding before it, however the encoder counts positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from module_helpers import TINY_ENCODER, save_words
from ray_st.models import Pooling, SentenceTransformer, Transformer
from ray_st.models.positions import is_padded_left, run_from_start, table_limit

SIZES = {**TINY_ENCODER, "max_position_embeddings": 30}
BART = {
    "vocab_size": 40,
    "d_model": 16,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
    **{f"{half}_layers": 1 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 24 for half in ("encoder", "decoder")},
}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 30}
KINDS: dict[str, tuple[dict[str, Any], int | None]] = {
    "albert": ({**SIZES, "embedding_size": 8}, 30),
    "bart": (BART, 30),
    "bert": (SIZES, 30),
    "gpt2": (GPT2, 30),
    "llama": (SIZES, None),
    "mpnet": (SIZES, 28),
    "openai-gpt": (GPT2, 30),
    "roberta": (SIZES, 28),
    "rwkv": ({**SIZES, "num_hidden_layers": 2, "attention_hidden_size": 16, "context_length": 30}, None),
    "xlnet": ({"vocab_size": 40, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}, None),
}
"""Sizes of a small encoder of each kind, and for how many tokens it has positions."""


def encoder(kind: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **KINDS[kind][0])
    model = transformers.AutoModel.from_config(config).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def batch(left: bool) -> tuple[dict[str, Tensor], list[slice]]:
    """Texts of 4 and 9 tokens, and where they stand."""
    torch.manual_seed(1)
    ids, mask = torch.ones(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    places = [slice(9 - size, 9) if left else slice(0, size) for size in (4, 9)]
    for row, place in enumerate(places):
        mask[row, place] = 1
        ids[row, place] = torch.randint(5, 40, (place.stop - place.start,))
    return {"input_ids": ids, "attention_mask": mask}, places


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_texts_have_the_vectors_that_they_have_without_padding(kind: str) -> None:
    model = encoder(kind)
    inputs, places = batch(left=True)
    assert is_padded_left(inputs)
    found = run_from_start(model, inputs).last_hidden_state
    right, _ = batch(left=False)
    wanted = model(**right).last_hidden_state
    for row, place in enumerate(places):
        torch.testing.assert_close(found[row, place], wanted[row, : place.stop - place.start])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_how_many_positions_an_encoder_has(kind: str) -> None:
    assert table_limit(encoder(kind)) == KINDS[kind][1]


def test_all_layers_and_gradients_come_back_too() -> None:
    model = encoder("bert")
    (left, _), (right, _) = batch(left=True), batch(left=False)
    found = run_from_start(lambda **inputs: model(**inputs, output_hidden_states=True), left)
    wanted = model(**right, output_hidden_states=True)
    for mine, other in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(mine[0, 5:], other[0, :4])
    gradients = []
    for vectors in (found.last_hidden_state[0, 5:], wanted.last_hidden_state[0, :4]):
        model.zero_grad()
        (vectors * torch.arange(16)).sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_what_needs_no_move() -> None:
    left, right = batch(left=True)[0], batch(left=False)[0]
    assert not is_padded_left(right)
    assert not is_padded_left({**left, "position_ids": left["input_ids"]})
    assert not is_padded_left({"input_ids": left["input_ids"]})
    assert not is_padded_left({**left, "attention_mask": torch.zeros(2, 9)})


@pytest.mark.parametrize("attention", ["unpadded", "eager"])
@pytest.mark.parametrize("mode", ["cls", "mean", "weightedmean", "lasttoken"])
def test_a_text_alone_and_beside_a_long_one(attention: str, mode: str, tiny_encoder: Path) -> None:
    chosen = {} if attention == "unpadded" else {"attn_implementation": attention}
    model = SentenceTransformer(
        modules=[Transformer(tiny_encoder, model_args=chosen), Pooling(32, mode)], device="cpu"
    )
    texts = ["a man", "the weather is good " * 9, ""]
    wanted = model.encode(texts)
    model.tokenizer.padding_side = "left"
    np.testing.assert_allclose(model.encode(texts), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode(texts, batch_size=1), wanted, atol=1e-5)


def test_the_padding_of_a_tokenizer_may_have_an_id_that_the_encoder_counts(tmp_path: Path) -> None:
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model("roberta", **SIZES)).save_pretrained(
        tmp_path
    )
    save_words(tmp_path, pad_token="b")
    model = SentenceTransformer(modules=[Transformer(tmp_path), Pooling(16)], device="cpu")
    model.tokenizer.padding_side = "left"
    texts = ["c d", "c d c d c d c"]
    np.testing.assert_allclose(model.encode(texts), model.encode(texts, batch_size=1), atol=1e-5)


def test_the_limit_of_a_roberta_whose_tokenizer_states_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model("roberta", **SIZES)).save_pretrained(
        tmp_path
    )
    save_words(tmp_path)
    transformer = Transformer(tmp_path)
    assert transformer.max_seq_length == 28
    assert transformer(transformer.tokenize(["c d " * 50]))["token_embeddings"].shape == (1, 28, 16)
    assert not caplog.records
    transformer.max_seq_length = 30
    assert transformer.max_seq_length == 28
    assert "max_seq_length=30 is reduced to 28" in caplog.text


@pytest.mark.parametrize("kind", ["llama", "gpt2", "roberta", "xlnet"])
@pytest.mark.parametrize("mode", ["mean", "lasttoken", "cls", "max"])
def test_a_text_without_tokens_alone_and_among_others(kind: str, mode: str, tmp_path: Path) -> None:
    encoder(kind).float().save_pretrained(tmp_path)
    save_words(tmp_path)
    model = SentenceTransformer(modules=[Transformer(tmp_path), Pooling(16, mode)], device="cpu")
    np.testing.assert_array_equal(model.encode(""), model.encode(["", "c d c"])[0])
    model.train()
    model(model.tokenize(["", ""]))["sentence_embedding"].sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "xlnet", "bert"])
def test_nothing_is_kept_for_a_next_call(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder(kind).float().save_pretrained(tmp_path)
    save_words(tmp_path)
    transformer = Transformer(tmp_path)
    seen = []
    forward = transformer.auto_model.forward
    monkeypatch.setattr(
        transformer.auto_model, "forward", lambda **inputs: seen.append(forward(**inputs)) or seen[-1]
    )
    for mode in (True, False):
        transformer.train(mode)(transformer.tokenize(["c d", "c"]))
    assert [output.get(name) for output in seen for name in ("past_key_values", "mems")] == [None] * 4
