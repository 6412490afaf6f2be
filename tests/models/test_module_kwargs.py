"""Keyword arguments of a model's call that go to some of its modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from module_helpers import DIMENSION, word_embeddings
from ray_st import SentenceTransformer
from ray_st.models import Module, Pooling
from ray_st.models.folder_files import ModelFolderError, read_json, write_json


class Scale(Module):
    """Multiplies embeddings by an argument of the call."""

    config_keys = ()

    def forward(self, features: dict[str, Any], factor: float = 1.0, shift: float = 0.0) -> dict[str, Any]:
        return {**features, "sentence_embedding": features["sentence_embedding"] * factor + shift}


class Named(Scale):
    """The same, and says itself what it takes."""

    forward_kwargs = frozenset({"factor"})


def model_of(module: Module) -> SentenceTransformer:
    return SentenceTransformer(modules=[word_embeddings(), Pooling(DIMENSION), module], device="cpu")


def embed(model: SentenceTransformer, **options: Any) -> torch.Tensor:
    return model(model.tokenize(["sunny weather"]), **options)["sentence_embedding"]


def test_options_go_to_the_modules_that_know_them() -> None:
    model = model_of(Named())
    torch.testing.assert_close(embed(model, factor=2.0, shift=5.0, other=1), 2 * embed(model))
    assert model.get_model_kwargs() == ["factor"]
    model.module_kwargs = {"2": ["shift"]}
    assert model.get_model_kwargs() == ["factor", "shift"]
    torch.testing.assert_close(embed(model, factor=2.0, shift=5.0), 2 * embed(model) + 5)
    assert model.module_kwargs == {"0": [], "1": [], "2": ["shift"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of which only the folder says what its last module takes."""
    code = tmp_path / "code"
    code.mkdir()
    lines = [
        "class Shift(__import__('torch').nn.Module):",
        "    def forward(self, features, shift=0.0):",
        "        return {**features, 'sentence_embedding': features['sentence_embedding'] + shift}",
        "    def save(self, folder, **options): pass",
        "    @classmethod",
        "    def load(cls, folder, **options): return cls()",
    ]
    (code / "shifting_module.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(code)
    import shifting_module  # type: ignore[import-not-found]

    model = model_of(shifting_module.Shift())
    model.module_kwargs = {"2": ["shift"]}
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_says_what_a_module_takes(folder: Path, peer: Any, tmp_path: Path) -> None:
    assert [entry.get("kwargs") for entry in read_json(folder / "modules.json")] == [None, None, ["shift"]]
    theirs = peer.SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert theirs.get_model_kwargs() == ["shift"]
    theirs.save(str(tmp_path / "theirs"))
    back = SentenceTransformer(tmp_path / "theirs", device="cpu", trust_remote_code=True)
    assert back.module_kwargs["2"] == ["shift"]
    torch.testing.assert_close(embed(back, shift=3.0), embed(back) + 3)
    torch.testing.assert_close(embed(back), theirs.encode(["sunny weather"], convert_to_tensor=True))


@pytest.mark.parametrize("kwargs", ["shift", [1], {"shift": 1}], ids=str)
def test_kwargs_must_be_names(kwargs: Any, folder: Path) -> None:
    entries = read_json(folder / "modules.json")
    entries[2]["kwargs"] = kwargs
    write_json(folder / "modules.json", entries)
    with pytest.raises(ModelFolderError, match=r"must be a list of modules, .* and names as kwargs"):
        SentenceTransformer(folder, trust_remote_code=True)


def test_encode_passes_options_on() -> None:
    model = model_of(Named())
    plain = model.encode(["sunny weather"])
    assert (model.encode(["sunny weather"], factor=2.0) == 2 * plain).all()
    assert (model.encode(["sunny weather"], task="query") == plain).all()
    with pytest.raises(
        ValueError, match=r"no argument 'shift', and no module takes it; they take \['factor'\]"
    ):
        model.encode(["sunny weather"], shift=2.0)
