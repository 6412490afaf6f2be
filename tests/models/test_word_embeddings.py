from __future__ import annotations

import gzip
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from module_helpers import DIMENSION, TEXTS, VOCABULARY, there_and_back, word_embeddings
from ray_st import SentenceTransformer
from ray_st.models import Pooling, WordEmbeddings
from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.tokenizer import PhraseTokenizer, WhitespaceTokenizer


def test_features_are_arrays_of_one_shape() -> None:
    found = word_embeddings().tokenize(["sunny weather", "nothing known", "man"])
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(found, torch.int64)
    assert found["input_ids"].tolist() == [[2, 1], [0, 0], [3, 0]]
    assert found["attention_mask"].tolist() == [[1, 1], [0, 0], [1, 0]]
    assert found["sentence_lengths"].tolist() == [2, 0, 1]
    assert word_embeddings().tokenize(["the"])["input_ids"].shape == (1, 1)


def test_vectors_of_words() -> None:
    module = word_embeddings()
    found = module(module.tokenize(["sunny weather"]))["token_embeddings"]
    torch.testing.assert_close(found, module.emb_layer.weight[[2, 1]][None])


def test_longer_texts_are_cut() -> None:
    module = word_embeddings()
    model = SentenceTransformer(modules=[module, Pooling(DIMENSION)], device="cpu")
    model.max_seq_length = 1
    assert model.tokenize(["sunny weather"])["input_ids"].tolist() == [[2]]


def test_the_encoder_travels() -> None:
    encoder = word_embeddings().token_encoder()
    back = pickle.loads(pickle.dumps(encoder))
    assert [ids.tolist() for ids in back(["sunny man", ""])] == [[2, 3], []]
    assert back.prompt_length("the weather ") == 1


@pytest.mark.parametrize("update", [True, False])
def test_to_the_peer_and_back(update: bool, peer: Any, tmp_path: Path) -> None:
    back = there_and_back([word_embeddings(update), Pooling(DIMENSION)], peer, tmp_path)
    assert back[0].emb_layer.weight.requires_grad is update
    assert back[0].max_seq_length == 1_000_000


def test_phrases_to_the_peer_and_back(peer: Any, tmp_path: Path) -> None:
    pytest.importorskip("nltk")
    module = WordEmbeddings(PhraseTokenizer([*VOCABULARY, "good_man"]), torch.randn(12, 4))
    back = there_and_back([module, Pooling(4)], peer, tmp_path, ["a good man, sunny", "good good man"])
    assert isinstance(back.tokenizer, PhraseTokenizer)


def test_a_tokenizer_of_transformers_to_the_peer_and_back(
    tiny_encoder: Path, peer: Any, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    module = WordEmbeddings(tokenizer, np.random.default_rng(0).normal(size=(200, 4)))
    there_and_back([module, Pooling(4)], peer, tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / "ours" / "0_WordEmbeddings" / file).unlink(missing_ok=True)
    with pytest.raises(ModelFolderError, match=r"vocabulary|no tokenizer"):
        SentenceTransformer(tmp_path / "ours")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("head", ["", "3 2\n"])
def test_from_a_text_file_as_the_peer(packed: bool, head: str, peer: Any, tmp_path: Path) -> None:
    lines = f"{head}weather 1 2\nsunny -0.5 1e-1\nman 3 4\n"
    path = tmp_path / ("vectors.txt.gz" if packed else "vectors.txt")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    mine = WordEmbeddings.from_text_file(path, max_vocab_size=2)
    from sentence_transformers.sentence_transformer.modules import WordEmbeddings as Theirs

    theirs = Theirs.from_text_file(str(path), max_vocab_size=2)
    assert mine.tokenizer.get_vocab() == theirs.tokenizer.get_vocab() == ["PADDING_TOKEN", "weather", "sunny"]
    torch.testing.assert_close(mine.emb_layer.weight, theirs.emb_layer.weight)
    assert mine.emb_layer.weight.requires_grad is False


def test_lines_of_other_dimensions_and_repeated_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "vectors.tsv"
    path.write_text("a\t1\t2\nb\t1\na\t3\t4\nc\t5\t6\n")
    with caplog.at_level(logging.WARNING):
        module = WordEmbeddings.from_text_file(path, item_separator="\t")
    assert module.tokenizer.get_vocab() == ["PADDING_TOKEN", "a", "c"]
    assert module.emb_layer.weight.tolist() == [[0, 0], [3, 4], [5, 6]]
    assert "1 lines have other than 2 numbers and were skipped, the first is line 2" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no file .* with word vectors"),
        ("", "has no line with a word and its numbers, separated by ' '"),
        ("a 1 x\n", r"line 1: expected a word and numbers, found 'a 1 x"),
    ],
)
def test_files_that_hold_no_vectors(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "vectors.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        WordEmbeddings.from_text_file(tmp_path / "vectors.txt")


@pytest.mark.parametrize(
    ("tokenizer", "weights", "message"),
    [
        (WhitespaceTokenizer(["a", "b"]), torch.zeros(1, 3), "has 2 words, but there are only 1 vectors"),
        (WhitespaceTokenizer(["a"]), torch.zeros(3), r"must be \(words, dimension\); got the shape \(3,\)"),
        (str.split, torch.zeros(1, 3), "needs a WordTokenizer or a tokenizer of transformers; got method"),
    ],
    ids=["words", "shape", "tokenizer"],
)
def test_what_makes_no_word_embeddings(tokenizer: Any, weights: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordEmbeddings(tokenizer, weights)


def test_folders_that_are_incomplete(tmp_path: Path) -> None:
    word_embeddings().save(tmp_path)
    config = read_json(tmp_path / "wordembedding_config.json")
    for kind in ("os.path", "sentence_transformers.models.tokenizer.Other"):
        write_json(tmp_path / "wordembedding_config.json", {**config, "tokenizer_class": kind})
        with pytest.raises(ModelFolderError, match=f"tokenizer_class must be one of .*; found '{kind}'"):
            WordEmbeddings.load(tmp_path)
    write_json(tmp_path / "wordembedding_config.json", config)
    words = tmp_path / "whitespacetokenizer_config.json"
    write_json(words, read_json(words) | {"vocab": [*VOCABULARY, "more"]})
    with pytest.raises(ModelFolderError, match="has 12 words, but there are only 11 vectors"):
        WordEmbeddings.load(tmp_path)
    words.unlink()
    with pytest.raises(ModelFolderError, match=r"no whitespacetokenizer_config\.json, the vocabulary"):
        WordEmbeddings.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="has no weights"):
        WordEmbeddings.load(tmp_path)


def test_a_text_alone_and_in_a_batch() -> None:
    model = SentenceTransformer(modules=[word_embeddings(), Pooling(DIMENSION)], device="cpu")
    single = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), single, atol=1e-6)
