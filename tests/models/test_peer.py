"""Folders go to the peer and come back: the same embeddings either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.models import Dense, Normalize, Pooling, SentenceTransformer, Transformer

WORDS = "the weather is sunny, a man eats 12 bad (pasta) words; of 3 documents to query"
POOLINGS = [
    "mean",
    "cls",
    "max",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    ("cls", "mean"),
    ("mean", "cls"),  # an order that only the newer form of the folder can say
    ("max", "weightedmean", "lasttoken"),
]


def texts(count: int = 200, longest: int = 90) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS.split(), rng.integers(1, longest))) for _ in range(count)]


def gap(ours: Any, theirs: Any, **options: Any) -> float:
    mine, yours = ours.encode(texts(), **options), theirs.encode(texts(), **options)
    assert mine.shape == yours.shape
    return float(np.abs(mine - yours).max())


def head(kind: str) -> list[Any]:
    torch.manual_seed(1)
    return {
        "none": [],
        "normalize": [Normalize()],
        "dense": [Dense(32, 8)],
        "linear": [Dense(32, 16, bias=False, activation_function=None), Normalize()],
        "residual": [Dense(32, 32, activation_function=torch.nn.GELU(), use_residual=True)],
    }[kind]


@pytest.mark.slow
def test_minilm_to_the_peer_and_back(minilm_folder: Path, peer: Any, tmp_path: Path) -> None:
    mine, theirs = SentenceTransformer(minilm_folder), peer.SentenceTransformer(str(minilm_folder))
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    models = [
        mine,
        theirs,
        peer.SentenceTransformer(str(tmp_path / "ours")),
        SentenceTransformer(tmp_path / "theirs"),
    ]
    assert [model.max_seq_length for model in models] == [256] * 4
    first, *others = (model.encode(texts(200, longest=30)) for model in models)
    assert first.shape == (200, 384)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


@pytest.mark.parametrize("mode", POOLINGS, ids=str)
def test_pooling_to_the_peer_and_back(mode: Any, tiny_encoder: Path, peer: Any, tmp_path: Path) -> None:
    mine = SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32, mode)])
    mine.save(tmp_path / "ours")
    theirs = peer.SentenceTransformer(str(tmp_path / "ours"))
    assert gap(mine, theirs) < 1e-5
    theirs.save(str(tmp_path / "theirs"))
    assert gap(SentenceTransformer(tmp_path / "theirs"), theirs) < 1e-5


@pytest.mark.parametrize("kind", ["none", "normalize", "dense", "linear", "residual"])
def test_head_to_the_peer_and_back(kind: str, tiny_encoder: Path, peer: Any, tmp_path: Path) -> None:
    mine = SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), *head(kind)])
    mine.save(tmp_path / "ours")
    theirs = peer.SentenceTransformer(str(tmp_path / "ours"))
    assert gap(mine, theirs) < 1e-5
    theirs.save(str(tmp_path / "theirs"))
    assert gap(SentenceTransformer(tmp_path / "theirs"), theirs) < 1e-5


@pytest.mark.parametrize("mode", POOLINGS, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompt_left_out_of_pooling(
    mode: Any, side: str, tiny_encoder: Path, peer: Any, tmp_path: Path
) -> None:
    modules = [Transformer(tiny_encoder), Pooling(32, mode, include_prompt=False)]
    mine = SentenceTransformer(modules=modules, prompts={"query": "query: "})
    mine.save(tmp_path)
    theirs = peer.SentenceTransformer(str(tmp_path))
    mine.tokenizer.padding_side = side  # the peer's vectors depend on it: BERT's positions count its padding
    assert gap(mine, theirs, prompt_name="query", batch_size=200) < 1e-5
    assert gap(mine, theirs, batch_size=200) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"normalize_embeddings": True},
        {"truncate_dim": 5, "normalize_embeddings": True},
        {"prompt": "query: "},
        {"precision": "int8"},
        {"precision": "uint8"},
        {"precision": "binary"},
        {"precision": "ubinary"},
        {"batch_size": 7},
    ],
    ids=str,
)
def test_options_of_encode(options: dict[str, Any], tiny_folder: Path, peer: Any) -> None:
    mine, theirs = SentenceTransformer(tiny_folder), peer.SentenceTransformer(str(tiny_folder))
    a, b = mine.encode(texts(), **options), theirs.encode(texts(), **options)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if "precision" in options:  # a value on the edge of a step may fall to either side
        assert (a == b).mean() > 0.999
    else:
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_other_outputs(tiny_folder: Path, peer: Any) -> None:
    mine, theirs = SentenceTransformer(tiny_folder), peer.SentenceTransformer(str(tiny_folder))
    for a, b in zip(
        *(m.encode(texts(9), output_value="token_embeddings") for m in (mine, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for a, b in zip(*(m.encode(texts(9), output_value=None) for m in (mine, theirs)), strict=True):
        torch.testing.assert_close(a["sentence_embedding"], b["sentence_embedding"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_settings_survive(name: str, tiny_folder: Path, peer: Any, tmp_path: Path) -> None:
    settings = {"prompts": {"query": "q: "}, "default_prompt_name": "query", "truncate_dim": 7}
    SentenceTransformer(tiny_folder, similarity_fn_name=name, **settings).save(tmp_path / "ours")
    theirs = peer.SentenceTransformer(str(tmp_path / "ours"))
    theirs.save(str(tmp_path / "theirs"))
    back = SentenceTransformer(tmp_path / "theirs")
    for model in (theirs, back):
        assert model.similarity_fn_name == name
        assert model.prompts == {"query": "q: ", "document": ""}
        assert (model.default_prompt_name, model.truncate_dim) == ("query", 7)
    embeddings = back.encode(texts(9))
    for method in ("similarity", "similarity_pairwise"):
        torch.testing.assert_close(
            getattr(back, method)(embeddings, embeddings), getattr(theirs, method)(embeddings, embeddings)
        )


def lower(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(
        modules=[Transformer(folder, max_seq_length=20, do_lower_case=True), Pooling(32)]
    )


def plain(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(folder)


@pytest.mark.parametrize("make", [lower, plain])
def test_kinds_of_folder(make: Callable[[Path], Any], tiny_encoder: Path, peer: Any, tmp_path: Path) -> None:
    mine = make(tiny_encoder)
    mine.save(tmp_path)
    theirs = peer.SentenceTransformer(str(tmp_path))
    shouted = [text.upper() for text in texts(20)]
    np.testing.assert_allclose(mine.encode(shouted), theirs.encode(shouted), atol=1e-5)
    assert theirs.max_seq_length == mine.max_seq_length
