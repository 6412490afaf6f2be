"""Embedders made of language models: padding on the left, prompts, last token or mean, as the peer computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from decoder_folders import DIMENSION, EMBEDDERS, KINDS, save_decoder
from ray_st import SentenceTransformer, losses
from ray_st.models import Pooling, Transformer

TEXTS = ["the man eats pasta", "good weather is good " * 5, "sunny", ""]
PROMPT = "instruct : find the document : "
TEMPLATE = (
    "{% for message in messages %}<s> {{ message.role }} : {{ message.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}query :{% endif %}"
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_decoder(tmp_path_factory.mktemp("decoder") / kind, kind)
        return made[kind]

    return folder_of


def embedder(folder: Path, mode: str = "lasttoken") -> Any:
    return SentenceTransformer(modules=[Transformer(folder), Pooling(DIMENSION, mode)], device="cpu")


@pytest.mark.parametrize("mode", ["lasttoken", "mean"])
@pytest.mark.parametrize("kind", EMBEDDERS)
def test_a_texts_vector_is_the_peers_whatever_stands_beside_it(
    kind: str, mode: str, folder_of: Any, peer: Any, tmp_path: Path
) -> None:
    model = embedder(folder_of(kind), mode)
    model.save(tmp_path)
    theirs = peer.SentenceTransformer(str(tmp_path), device="cpu")
    for include_prompt, prompt in ((True, None), (True, PROMPT), (False, PROMPT)):
        for one in (model, theirs):
            one.set_pooling_include_prompt(include_prompt)
        wanted = theirs.encode(TEXTS, prompt=prompt)
        for side in ("left", "right"):
            model.tokenizer.padding_side = side
            vectors = model.encode(TEXTS, prompt=prompt)
            np.testing.assert_allclose(vectors, wanted, atol=1e-5)
            np.testing.assert_allclose(model.encode(TEXTS, prompt=prompt, batch_size=1), vectors, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - EMBEDDERS))
def test_other_kinds_alone_and_beside_a_long_text(kind: str, folder_of: Any) -> None:
    for mode in ("lasttoken", "mean"):
        model = embedder(folder_of(kind), mode)
        alone = model.encode(TEXTS, batch_size=1)
        for side in ("left", "right"):
            model.tokenizer.padding_side = side
            np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_losses_and_gradients_are_the_peers(kind: str, folder_of: Any, peer: Any, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer import losses as peer_losses

    model = embedder(folder_of(kind))
    model.save(tmp_path)
    theirs = peer.SentenceTransformer(str(tmp_path), device="cpu")
    queries, documents = (
        ["the man", "good weather is good", "sunny"],
        ["pasta", "the bad weather", "a query is"],
    )
    prompted = [model.preprocess(queries, prompt=PROMPT), model.preprocess(documents)]
    found, wanted = [], []
    for library, one, results in ((losses, model, found), (peer_losses, theirs, wanted)):
        ranking = library.MultipleNegativesRankingLoss(one)
        # The peer's MatryoshkaLoss changes the loss that it is given.
        cached, inner = (library.CachedMultipleNegativesRankingLoss(one, mini_batch_size=2) for _ in "12")
        for loss in (ranking, cached, library.MatryoshkaLoss(one, inner, [DIMENSION, 8])):
            one.zero_grad()
            value = loss([dict(column) for column in prompted], None)
            value.backward()
            gradients = [weight.grad.flatten() for weight in one.parameters() if weight.grad is not None]
            results.append(torch.cat([value.detach()[None], *gradients]))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "how"),
    [("qwen3", "plain"), ("qwen3", "by hand"), ("mistral", "added"), ("gemma3_text", "by hand")],
)
def test_no_keys_and_values_are_kept(kind: str, how: str, folder_of: Any, monkeypatch: Any) -> None:
    model = embedder(folder_of(kind))
    encoder = model[0].auto_model
    if how != "plain":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["q_proj"])
        if how == "added":
            model.add_adapter(config)
        else:
            model[0].auto_model = peft.get_peft_model(encoder, config)
    encoder.config.use_cache = True
    encoder.generation_config = GenerationConfig(use_cache=True)
    seen = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda **given: seen.append(forward(**given)) or seen[-1])
    model.encode(TEXTS)
    model.train()(model.tokenize(TEXTS))["sentence_embedding"].sum().backward()
    assert len(seen) == 2
    assert [output.get("past_key_values") for output in seen] == [None, None]


def test_a_tokenizer_without_padding_fills_up_with_the_end_of_a_text(
    folder_of: Any, peer: Any, tmp_path: Path
) -> None:
    model = embedder(save_decoder(tmp_path / "unpadded", "qwen3", pad=False))
    assert model.tokenizer.pad_token == "</s>"
    vectors = model.encode(TEXTS)
    np.testing.assert_allclose(vectors, embedder(folder_of("qwen3")).encode(TEXTS), atol=1e-5)
    model.save(tmp_path / "saved")
    theirs = peer.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), vectors, atol=1e-5)


def test_texts_are_rendered_as_the_folder_says(peer: Any, tmp_path: Path) -> None:
    transformer = Transformer(
        save_decoder(tmp_path / "chat", "qwen3", template=TEMPLATE),
        max_seq_length=20,
        modality_config={"message": {"format": "flat"}},
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    model = SentenceTransformer(modules=[transformer, Pooling(DIMENSION, "lasttoken")], device="cpu")
    model.save(tmp_path / "saved")
    theirs = peer.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    for prompt in (None, "find the document"):
        vectors = model.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(model.encode(TEXTS, prompt=prompt, batch_size=1), vectors, atol=1e-5)
        np.testing.assert_allclose(theirs.encode(TEXTS, prompt=prompt), vectors, atol=1e-5)
    bare = embedder(tmp_path / "chat").encode(TEXTS)
    assert not np.allclose(bare, model.encode(TEXTS), atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "how"), [("qwen3", "by hand"), ("mistral", "added"), ("gemma3_text", "by hand")]
)
def test_an_adapter_and_what_it_is_merged_into_open_in_the_peer(
    kind: str, how: str, folder_of: Any, peer: Any, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model = embedder(folder_of(kind), "mean")
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules="all-linear")
    if how == "added":
        model.add_adapter(config)
    else:
        model[0].auto_model = peft.get_peft_model(model[0].auto_model, config)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    expected = model.encode(TEXTS, prompt=PROMPT)
    assert not np.allclose(
        embedder(folder_of(kind), "mean").encode(TEXTS, prompt=PROMPT), expected, atol=1e-2
    )
    model.save(tmp_path / "adapter")
    model.merge_adapters()
    model.save(tmp_path / "merged")
    for name in ("adapter", "merged"):
        for library in (peer.SentenceTransformer, SentenceTransformer):
            opened = library(str(tmp_path / name), device="cpu")
            np.testing.assert_allclose(opened.encode(TEXTS, prompt=PROMPT), expected, atol=1e-5)
