from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer

from ray_st import SentenceTransformer
from ray_st.models import Transformer
from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.tokenizer.pretrained import load_tokenizer, save_tokenizer

TEXTS = ["a man eats pasta", "the weather is good " * 20, ""]


def state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text())


def test_the_files_say_what_the_model_does(tiny_encoder: Path, tmp_path: Path, peer: Any) -> None:
    source = tmp_path / "source"
    tokenizer = load_tokenizer(tiny_encoder)
    tokenizer(["a man"], padding="max_length", truncation=True, max_length=8)
    Transformer(tiny_encoder).save(source)
    tokenizer.save_pretrained(source)
    assert state(source)["truncation"]["max_length"] == state(source)["padding"]["strategy"]["Fixed"] == 8
    model = SentenceTransformer(source, device="cpu")
    model.max_seq_length = 40
    model.save(tmp_path / "saved")
    saved = state(tmp_path / "saved")
    assert saved["truncation"]["max_length"] == 40
    assert saved["padding"]["strategy"] == "BatchLongest"
    config = read_json(tmp_path / "saved" / "tokenizer_config.json")
    assert config["model_max_length"] == 40
    assert "max_length" not in config
    other = peer.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert other.max_seq_length == 40
    np.testing.assert_allclose(other.encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_what_is_saved_does_not_depend_on_calls(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "before")
    tiny_model.encode(TEXTS)
    tiny_model.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)
    tiny_model.save(tmp_path / "after")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_without_a_limit_or_a_padding_token(tiny_encoder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder)
    tokenizer.pad_token = None
    save_tokenizer(tokenizer, tmp_path, None)
    assert (state(tmp_path)["truncation"], state(tmp_path)["padding"]) == (None, None)


def test_a_tokenizer_of_bytes_has_no_vocabulary(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("ab")["input_ids"] == [100, 101, 1]


def test_a_tokenizer_without_its_vocabulary(tiny_encoder: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(
        ModelFolderError, match=r"no vocabulary for its tokenizer: expected one of tokenizer\.json"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("limit", [8, 40])
def test_the_callers_word_overrides_the_folders(limit: int, tiny_folder: Path) -> None:
    model = SentenceTransformer(tiny_folder, tokenizer_kwargs={"model_max_length": limit}, device="cpu")
    assert model.max_seq_length == limit
    assert model.tokenize(["good " * 99])["input_ids"].shape == (1, limit)


def test_secrets_are_not_written(tiny_folder: Path, tmp_path: Path) -> None:
    given = {"token": "hf_hidden", "use_auth_token": "hf_hidden", "api_key": "hf_hidden"}
    model = SentenceTransformer(
        tiny_folder, tokenizer_kwargs={**given, "service": {"password": "hf_hidden"}}, token="hf_hidden"
    )
    model.save(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*") if b"hf_hidden" in path.read_bytes()] == []
    assert "hf_hidden" not in model.tokenizer.get_vocab()
    assert read_json(tmp_path / "tokenizer_config.json")["pad_token"] == "[PAD]"
    with pytest.raises(ValueError, match="'hub_token', which would become a word of its vocabulary"):
        SentenceTransformer(tiny_folder, tokenizer_kwargs={"hub_token": "hf_hidden"})
