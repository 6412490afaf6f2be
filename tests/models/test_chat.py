"""Folders of the peer that put texts into the messages of a chat."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_st import SentenceTransformer
from ray_st.models import Pooling, Transformer
from ray_st.models.chat import common_end
from ray_st.models.folder_files import ModelFolderError, read_json, write_json

FLAT = (
    "{% for m in messages %}{% if m.role == 'system' %}query : {% else %}text the {% endif %}"
    "{{ m.content }} [SEP] {% endfor %}{% if add_generation_prompt %}good man{% endif %}[SEP]"
)
STRUCTURED = FLAT.replace("m.content }}", "m.content[0]['text'] }}")
TEXTS = ["a man eats pasta", "the weather is good " * 20, "", "good"]


@pytest.fixture(params=[FLAT, STRUCTURED], ids=["flat", "structured"])
def folder(request: Any, tiny_encoder: Path, peer: Any, tmp_path: Path) -> Path:
    """Saved by the peer, of a tokenizer with a template."""
    plain = Path(shutil.copytree(tiny_encoder, tmp_path / "plain"))
    (plain / "chat_template.jinja").write_text(request.param)
    modules = peer.sentence_transformer.modules
    options = {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    transformer = modules.Transformer(str(plain), max_seq_length=24, **options)
    assert "message" in transformer.modality_config
    model = peer.SentenceTransformer(modules=[transformer, modules.Pooling(32, "lasttoken")], device="cpu")
    model.save(str(tmp_path / "peer"))
    return tmp_path / "peer"


def test_vectors_are_the_peers_there_and_back(folder: Path, peer: Any, tmp_path: Path) -> None:
    mine, theirs = (
        SentenceTransformer(folder, device="cpu"),
        peer.SentenceTransformer(str(folder), device="cpu"),
    )
    for prompt in (None, "good man"):
        wanted = theirs.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(mine.encode(TEXTS, prompt=prompt), wanted, atol=1e-5)
    mine.save(tmp_path / "ours")
    for again in (SentenceTransformer, peer.SentenceTransformer):
        model = again(str(tmp_path / "ours"), device="cpu")
        np.testing.assert_allclose(model.encode(TEXTS), mine.encode(TEXTS), atol=1e-5)
    assert not np.allclose(wanted, mine.encode(TEXTS), atol=1e-2)


def test_the_end_of_the_template_survives_truncation(folder: Path) -> None:
    tokenizer = SentenceTransformer(folder, device="cpu").token_encoder()
    assert tokenizer is not None
    short, long = tokenizer(["good", "good " * 40])
    end = tokenizer.tokenizer.convert_tokens_to_ids(["[SEP]", "good", "man", "[SEP]"])
    assert len(long) == 24
    assert short[-4:].tolist() == long[-4:].tolist() == end


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality_config": {"message": {"format": "auto"}}}, "must be 'flat' or 'structured'; got 'auto'"),
        ({"processing_kwargs": {"chat_template": {"max_length": 3}}}, "names 'max_length'"),
        (
            {"processing_kwargs": {"text": {"add_special_tokens": False}}},
            "'add_special_tokens'.*which is not supported",
        ),
        ({"query_length": 3}, "sets query_length, which is not supported"),
        ({"module_output_name": "scores"}, "only 'feature-extraction'"),
    ],
    ids=str,
)
def test_what_is_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    path = folder / "sentence_bert_config.json"
    write_json(path, {**read_json(path), **change})
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(folder)


def test_a_folder_without_the_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelFolderError, match="the tokenizer has no chat template"):
        SentenceTransformer(folder)


def test_a_plain_folder_says_that_its_template_is_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SentenceTransformer(folder.parent / "plain")
    assert "has a chat template, which is not used: texts are encoded as they are" in caplog.text


def test_a_template_can_be_asked_for(folder: Path) -> None:
    form = "flat" if "content }}" in (folder / "chat_template.jinja").read_text() else "structured"
    transformer = Transformer(
        folder.parent / "plain",
        max_seq_length=24,
        modality_config={"message": {"format": form}},
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    model = SentenceTransformer(modules=[transformer, Pooling(32, "lasttoken")], device="cpu")
    wanted = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=1e-5)


def test_prompts_are_no_prefixes(folder: Path) -> None:
    encoder = SentenceTransformer(folder, device="cpu").token_encoder()
    assert encoder is not None
    with pytest.raises(ValueError, match=r"leave out args\.prompts"):
        encoder.check_prefixes()


def test_what_two_texts_end_in() -> None:
    assert common_end([1, 2, 8, 9], [3, 8, 9]) == [8, 9]
    assert common_end([1, 2], [3]) == []
    assert common_end([8, 9], [8, 9]) == []
