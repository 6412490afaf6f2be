from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ray_st.models import Asym, Dense, Normalize, Pooling, SentenceTransformer, Transformer
from ray_st.models.folder import Settings, read_modules, read_settings, write_modules, write_settings
from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.module import Module

LONG = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    modules = [Transformer(tiny_encoder), Pooling(32), Dense(32, 8), Normalize()]
    SentenceTransformer(modules=modules).save(tmp_path / "model")
    return tmp_path / "model"


def with_entry(folder: Path, place: int, **changes: Any) -> Path:
    entries = read_json(folder / "modules.json")
    entries[place].update(changes)
    write_json(folder / "modules.json", entries)
    return folder


def test_what_is_written(folder: Path) -> None:
    entries = read_json(folder / "modules.json")
    assert entries == [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_long_and_own_names_are_read(folder: Path) -> None:
    before = SentenceTransformer(folder).encode("good")
    for names in (LONG, {name: f"ray_st.models.{name}" for name in LONG}):
        for place, name in enumerate(("Transformer", "Pooling", "Dense", "Normalize")):
            with_entry(folder, place, type=names[name])
        assert (SentenceTransformer(folder).encode("good") == before).all()


def test_modules_keep_their_names(tiny_encoder: Path, tmp_path: Path) -> None:
    modules = {"words": Transformer(tiny_encoder), "text": Pooling(32)}
    SentenceTransformer(modules=modules).save(tmp_path)
    assert list(read_modules(tmp_path)) == ["words", "text"]


def test_a_transformer_in_a_folder_of_its_own(folder: Path) -> None:
    before = SentenceTransformer(folder).encode("good")
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(folder / "0_Transformer" / path.name)
    with_entry(folder, 0, path="0_Transformer")
    assert (SentenceTransformer(folder).encode("good") == before).all()


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        (
            "sentence_transformers.models.SpladePooling",
            r"names the module sentence_transformers\.models\.SpladePooling; known are Asym, BoW",
        ),
        ("os.system", r"names the module os\.system, which is code from outside .* trust_remote_code=True"),
        ("custom.Dense", "code from outside this package"),
        ("Dense", "code from outside this package"),
    ],
)
def test_unknown_modules_are_refused(type_: str, message: str, folder: Path) -> None:
    with_entry(folder, 2, type=type_)
    with pytest.raises(ModelFolderError, match=message):
        SentenceTransformer(folder)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "1_Pooling/../../x"])
def test_paths_stay_inside(path: str, folder: Path) -> None:
    with_entry(folder, 2, path=path)
    with pytest.raises(
        ModelFolderError, match=f"names the path '{path}', which leads out of the model folder"
    ):
        SentenceTransformer(folder)


def test_a_linked_sub_folder_stays_inside_too(folder: Path) -> None:
    shutil.move(folder / "2_Dense", folder.parent / "outside")
    (folder / "2_Dense").symlink_to(folder.parent / "outside")
    with pytest.raises(ModelFolderError, match="leads out of the model folder"):
        SentenceTransformer(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '[{"type": "x"}]', '["x"]', "[1"])
def test_a_broken_list_of_modules(text: str, folder: Path) -> None:
    (folder / "modules.json").write_text(text)
    with pytest.raises(
        ModelFolderError, match=r"modules\.json (must be a list of modules|is not valid JSON)"
    ):
        SentenceTransformer(folder)


def test_code_in_the_folder_runs_only_when_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "custom.py").write_text(
        "import torch\n"
        "class Half(torch.nn.Module):\n"
        "    def forward(self, features):\n"
        "        return {**features, 'sentence_embedding': features['sentence_embedding'] / 2}\n"
        "    def save(self, folder): pass\n"
        "    @classmethod\n"
        "    def load(cls, folder): return cls()\n"
    )
    before = SentenceTransformer(folder).encode("good")
    with_entry(folder, 3, type="custom.Half")
    with pytest.raises(ModelFolderError, match="trust_remote_code=True"):
        SentenceTransformer(folder)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder.parent / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    halved = SentenceTransformer(folder, trust_remote_code=True)
    assert abs(torch.linalg.vector_norm(torch.tensor(halved.encode("good"))) - 0.5) > 1e-3
    halved.save(folder.parent / "again")
    assert read_json(folder.parent / "again" / "modules.json")[3]["type"] == "custom.Half"
    again = SentenceTransformer(folder.parent / "again", trust_remote_code=True)
    assert (again.encode("good") == halved.encode("good")).all()
    assert not (halved.encode("good") == before).all()


def test_a_plain_folder_gets_mean_pooling(tiny_encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = SentenceTransformer(tiny_encoder)
    assert "has no modules.json: using a Transformer with mean pooling" in caplog.text
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]
    assert model[1].pooling_mode == "mean"


def test_a_plain_causal_model_gets_its_last_token(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "causal"))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=99, **shape)).save_pretrained(folder)
    assert SentenceTransformer(folder)[1].pooling_mode == "lasttoken"


def test_a_module_that_cannot_be_saved_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Module head \(Linear\) cannot be saved: it has no save\(folder\)"):
        write_modules(tmp_path, {"pool": Pooling(2), "head": nn.Linear(2, 2)})
    assert list(tmp_path.iterdir()) == []


def test_settings_there_and_back(tmp_path: Path) -> None:
    settings = Settings({"query": "q: "}, "query", "dot", 12)
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
    assert read_settings(tmp_path / "nothing") == Settings()


def test_another_kind_of_model(folder: Path) -> None:
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    with pytest.raises(ModelFolderError, match="holds a CrossEncoder, not a SentenceTransformer"):
        SentenceTransformer(folder)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFolderError, match=r"is not a model folder: it has neither modules\.json nor config\.json"
    ):
        SentenceTransformer(tmp_path)


class Power(nn.Module):
    """An activation with an argument, which no folder holds."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, values: Any) -> Any:
        return values.abs() ** self.exponent


class Scale(Module):
    """A module as a user writes it, in a script."""

    config_keys = ("size",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.weight = size, nn.Parameter(torch.ones(size))

    def forward(self, features: Any) -> Any:
        return {**features, "sentence_embedding": features["sentence_embedding"] * self.weight}

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        save_file(self.state_dict(), str(Path(folder) / "model.safetensors"))

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Any:
        module = super().load(folder, **options)
        module.load_state_dict(load_file(str(Path(folder) / "model.safetensors")))
        return module


def with_own_classes(folder: Path) -> SentenceTransformer:
    plain = SentenceTransformer(folder)
    parts = list(plain)
    size = int(plain.get_sentence_embedding_dimension() or 0)
    head = Asym({"query": [Scale(size)], "document": [Dense(size, size, activation_function=Power(0.5))]})
    return SentenceTransformer(modules=[*parts, Scale(size), head])


def test_a_model_takes_over_its_own_classes_without_trust(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they come from: a run's script is ``__main__``, whose classes no other process can import by name."""
    for kind in (Scale, Power):
        monkeypatch.setattr(kind, "__module__", "__main__")
    model = with_own_classes(folder)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Scale):
                part.weight.fill_(0.25)
    model.save(str(tmp_path / "saved"))
    assert read_json(tmp_path / "saved" / "modules.json")[4]["type"] == "__main__.Scale"
    other = with_own_classes(folder)
    other.load_weights(tmp_path / "saved")
    mine, theirs = other.state_dict(), model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
    with pytest.raises(ModelFolderError, match="trust_remote_code=True"):
        SentenceTransformer(tmp_path / "saved")
    with pytest.raises(
        ModelFolderError, match=r"names the module __main__\.Scale, which is code from outside"
    ):
        SentenceTransformer(folder).load_weights(tmp_path / "saved")
