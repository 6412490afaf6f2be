from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer

from module_helpers import TEXTS, there_and_back
from ray_st import SentenceTransformer
from ray_st.models import Normalize, StaticEmbedding
from ray_st.models.folder_files import ModelFolderError


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> Any:
    return Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))


def vectors(tokenizer: Any, dimension: int = 4) -> torch.Tensor:
    shape = (max(tokenizer.get_vocab().values()) + 1, dimension)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_is_the_mean_of_the_tokens_vectors(tokenizer: Any) -> None:
    weights = vectors(tokenizer)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, weights)], device="cpu")
    found = model.encode([*TEXTS, ""], convert_to_tensor=True)
    for row, text in enumerate(TEXTS):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        torch.testing.assert_close(found[row], weights[ids].mean(dim=0))
    assert not found[-1].any()


def test_features_of_one_row_a_text_and_those_of_the_peer(tokenizer: Any) -> None:
    module = StaticEmbedding(tokenizer, embedding_dim=3)
    padded = module.tokenize(TEXTS)
    assert len(padded["input_ids"]) == len(padded["attention_mask"]) == len(TEXTS)
    rows = [ids[mask.bool()] for ids, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)]
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    flat = {"input_ids": torch.cat(rows), "offsets": torch.tensor(starts)}
    torch.testing.assert_close(module(flat)["sentence_embedding"], module(padded)["sentence_embedding"])


def test_to_the_peer_and_back(tiny_encoder: Path, peer: Any, tmp_path: Path) -> None:
    fast = AutoTokenizer.from_pretrained(tiny_encoder)
    module = StaticEmbedding(fast, vectors(fast.backend_tokenizer).numpy())
    there_and_back([module, Normalize()], peer, tmp_path, prompt="query: ")


def test_the_longest_text_is_saved(tokenizer: Any, peer: Any, tmp_path: Path) -> None:
    module = StaticEmbedding(tokenizer, embedding_dim=3)
    model = SentenceTransformer(modules=[module], device="cpu")
    assert model.max_seq_length is None
    model.max_seq_length = 2
    assert model.tokenize(["good good good"])["input_ids"].shape == (1, 2)
    assert there_and_back([module], peer, tmp_path).max_seq_length == 2
    model.max_seq_length = None
    assert model.tokenize(["good good good"])["input_ids"].shape == (1, 3)


def test_the_encoder_travels(tokenizer: Any) -> None:
    encoder = pickle.loads(pickle.dumps(StaticEmbedding(tokenizer, embedding_dim=3).token_encoder()))
    assert [len(ids) for ids in encoder(["good text", ""])] == [2, 0]
    assert encoder.prompt_length("good ") == 1


@pytest.mark.parametrize("parts", ["plain", "mapped", "weighted", "bytes"])
def test_a_model2vec_model(parts: str, tokenizer: Any, peer: Any, tmp_path: Path) -> None:
    tokens = len(vectors(tokenizer))
    tensors = {"embeddings": vectors(tokenizer)}
    expected = tensors["embeddings"]
    if parts == "bytes":
        tensors["embeddings"] = (expected * 40).to(torch.int8)
        expected = tensors["embeddings"].float()
    if parts in ("mapped", "weighted"):
        tensors["mapping"] = torch.arange(tokens) // 2
        expected = expected[tensors["mapping"]]
    if parts == "weighted":
        tensors["weights"] = torch.rand(tokens, dtype=torch.float64)
        expected = expected * tensors["weights"].float()[:, None]
    save_file(tensors, tmp_path / "model.safetensors")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"normalize": true}')
    found = StaticEmbedding.from_model2vec(tmp_path)
    torch.testing.assert_close(found.embedding.weight.detach(), expected, check_dtype=False)
    if parts != "bytes":  # the peer needs floating-point vectors
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding as Theirs

        theirs = Theirs.load(str(tmp_path)).embedding.weight
        torch.testing.assert_close(found.embedding.weight, theirs, check_dtype=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs embedding_weights, or embedding_dim"),
        (
            {"embedding_weights": np.zeros((2, 3))},
            r"must be \(tokens, dimension\) for \d+ tokens; got .* \(2, 3\)",
        ),
        ({"embedding_weights": np.zeros(2000)}, r"got the shape \(2000,\)"),
    ],
    ids=str,
)
def test_what_makes_no_static_embedding(arguments: dict[str, Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        StaticEmbedding(tokenizer, **arguments)


def test_a_tokenizer_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"needs a tokenizers\.Tokenizer or a fast tokenizer .*; got str"):
        StaticEmbedding("bert", embedding_dim=3)


def test_folders_that_are_incomplete(tokenizer: Any, tmp_path: Path) -> None:
    StaticEmbedding(tokenizer, embedding_dim=3).save(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelFolderError, match=r"neither embedding\.weight nor embeddings; found \['other'\]"
    ):
        StaticEmbedding.load(tmp_path)
    save_file({"embedding.weight": torch.zeros(1, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"do not fit its tokenizer\.json"):
        StaticEmbedding.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelFolderError, match=r"has no tokenizer\.json"):
        StaticEmbedding.from_model2vec(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_a_distilled_encoder_as_the_peer(tiny_encoder: Path, peer: Any) -> None:
    pytest.importorskip("model2vec.distill")
    found = StaticEmbedding.from_distillation(tiny_encoder, device="cpu", pca_dims=8)
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding as Theirs

    theirs = Theirs.from_distillation(str(tiny_encoder), device="cpu", pca_dims=8)
    torch.testing.assert_close(found.embedding.weight, theirs.embedding.weight, atol=1e-5, rtol=0)
    assert found.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()


def test_what_model2vec_writes(peer: Any, tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "good": 1, "text": 2}, unk_token="[UNK]"))
    model2vec.StaticModel(vectors(tokenizer).numpy(), tokenizer, {"normalize": True}).save_pretrained(
        tmp_path
    )
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding as Theirs

    found, theirs = StaticEmbedding.from_model2vec(tmp_path), Theirs.from_model2vec(str(tmp_path))
    torch.testing.assert_close(found.embedding.weight, theirs.embedding.weight)
    assert found.tokenizer.to_str() == theirs.tokenizer.to_str()


def test_distillation_without_model2vec(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model2vec.distill", None)
    with pytest.raises(ImportError, match=r"pip install 'ray-st\[distill\]'"):
        StaticEmbedding.from_distillation(tiny_encoder)
