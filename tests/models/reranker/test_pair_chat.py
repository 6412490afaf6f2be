"""Chat templates that carry pairs, and those that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_st.models.folder_files import ModelFolderError
from ray_st.models.reranker.cross_encoder import CrossEncoder
from reranker_folders import pair_tokenizer, save_classifier, text_pairs

CARRIES = "{% for m in messages %}<s> {{ m.role }} {{ m.content }} {% endfor %}</s>"
USERS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}</s>"
RAISES = "{{ raise_exception('roles must alternate') }}"


def save(folder: Path, template: str) -> Path:
    save_classifier(folder, "qwen3", side="left")
    tokenizer = pair_tokenizer("qwen3", "left")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", [USERS, RAISES], ids=["users", "raises"])
def test_a_template_for_single_texts_is_not_used(
    template: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = CrossEncoder(save(tmp_path, template), device="cpu")
    assert "does not carry pairs: texts are joined without it" in caplog.text
    assert model.pair_encoder() is not None
    assert model.predict(text_pairs(3)).shape == (3,)


def test_a_folder_that_asks_for_such_a_template(tmp_path: Path) -> None:
    CrossEncoder(save(tmp_path / "plain", CARRIES), device="cpu").save_pretrained(tmp_path / "ours")
    settings = json.loads((tmp_path / "ours" / "sentence_bert_config.json").read_text())
    assert settings["modality_config"]["message"]["format"] == "flat"
    with pytest.raises(ModelFolderError, match="leaves out at least one"):
        CrossEncoder(tmp_path / "ours", tokenizer_kwargs={"chat_template": USERS})


def test_the_end_of_the_template_survives_truncation(tmp_path: Path) -> None:
    model = CrossEncoder(save(tmp_path, CARRIES), device="cpu", max_length=12)
    made = model.tokenize(text_pairs(5, 30))
    assert (made["attention_mask"].sum(1) == 12).any()
    assert (made["input_ids"][:, -1] == 2).all()


@pytest.mark.parametrize("options", [{}, {"prompt": "find what"}], ids=str)
def test_batches_do_not_matter(options: dict[str, Any], tmp_path: Path) -> None:
    model, pairs = CrossEncoder(save(tmp_path, CARRIES), device="cpu"), text_pairs(15)
    expected = [model.predict(pair, **options) for pair in pairs]
    np.testing.assert_allclose(model.predict(pairs, batch_size=4, **options), expected, atol=1e-6)
    assert model.preprocess(pairs, **options)["input_ids"].shape[0] == 15
