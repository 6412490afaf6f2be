"""Adapters: added, loaded, switched, deleted; saved so that the peer opens them, and the other way round."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ray_st import SentenceTransformer
from ray_st.models import Dense, Pooling, Transformer
from ray_st.models.folder_files import ModelFolderError, write_json

peft = pytest.importorskip("peft")

TEXTS = ["the weather is good", "a man eats pasta in the sunny weather"]


def lora(**options: Any) -> Any:
    return peft.LoraConfig(
        task_type=peft.TaskType.FEATURE_EXTRACTION, r=4, lora_alpha=8, lora_dropout=0.1, **options
    )


def stir(model: Any, seed: int = 0) -> Any:
    """Weights for an adapter, whose fresh one changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def adapted(tiny_model: Any) -> Any:
    tiny_model.add_adapter(lora())
    return stir(tiny_model)


@pytest.fixture
def saved(adapted: Any, tmp_path: Path) -> Path:
    adapted.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(tiny_model: Any) -> None:
    before = tiny_model.encode(TEXTS)
    tiny_model.add_adapter(lora())
    assert np.array_equal(tiny_model.encode(TEXTS), before)
    trained = [name for name, weight in tiny_model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 2 * 2  # query and value of two layers, A and B
    assert all("lora_" in name for name in trained)
    assert tiny_model.active_adapters() == ["default"]
    assert tiny_model.active_adapter() == "default"


def test_later_modules_go_on_training(tiny_encoder: Path) -> None:
    model = SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, 8)], device="cpu")
    model.add_adapter(lora())
    assert all(weight.requires_grad for weight in model[2].parameters())


def test_the_formula(adapted: Any, tiny_model: Any) -> None:
    layer = adapted[0].auto_model.encoder.layer[0].attention.self.query
    weights = adapted.get_adapter_state_dict()
    a, b = (weights[f"encoder.layer.0.attention.self.query.lora_{part}.weight"] for part in "AB")
    x = torch.randn(3, 32)
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 8 / 4 * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), expected)


def test_what_is_saved_is_the_adapter_alone_and_opens_again(saved: Path, adapted: Any) -> None:
    names = {path.name for path in saved.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "modules.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    again = SentenceTransformer(saved, device="cpu")
    assert np.array_equal(again.encode(TEXTS), adapted.encode(TEXTS))
    assert not any(weight.requires_grad for weight in again.parameters())
    again.set_adapter("default")
    assert sum(weight.requires_grad for weight in again.parameters()) == 8


def test_the_peer_opens_it(saved: Path, adapted: Any, peer: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.SentenceTransformer(str(saved), device="cpu")
    assert theirs.active_adapters() == ["default"]
    np.testing.assert_allclose(theirs.encode(TEXTS), adapted.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("targets", [["query", "value"], "all-linear"])
def test_ours_opens_the_peers(tiny_folder: Path, tmp_path: Path, peer: Any, targets: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.SentenceTransformer(str(tiny_folder), device="cpu")
        theirs.add_adapter(lora(target_modules=targets))
        stir(theirs).save_pretrained(str(tmp_path / "theirs"))
        expected = theirs.encode(TEXTS)
    ours = SentenceTransformer(tmp_path / "theirs", device="cpu")
    np.testing.assert_allclose(ours.encode(TEXTS), expected, atol=1e-6)


def test_an_adapter_folder_of_peft_alone_gets_the_tokenizer_of_its_base(saved: Path, adapted: Any) -> None:
    for name in ("modules.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"):
        (saved / name).unlink()
    again = SentenceTransformer(saved, device="cpu")
    assert np.array_equal(again.encode(TEXTS), adapted.encode(TEXTS))


def test_an_adapter_beside_its_base_needs_no_other_folder(
    saved: Path, adapted: Any, tiny_folder: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (saved / name).write_bytes((tiny_folder / name).read_bytes())
    config = json.loads((saved / "adapter_config.json").read_text())
    write_json(saved / "adapter_config.json", {**config, "base_model_name_or_path": "nobody/nothing"})
    assert np.array_equal(SentenceTransformer(saved, device="cpu").encode(TEXTS), adapted.encode(TEXTS))


def test_several_adapters(saved: Path, adapted: Any, tiny_model: Any) -> None:
    first = adapted.encode(TEXTS)
    adapted.add_adapter(lora(), "second")
    assert adapted.active_adapters() == ["second"]
    second = stir(adapted, seed=1).encode(TEXTS)
    adapted.load_adapter(saved, "third")
    assert np.array_equal(adapted.encode(TEXTS), first)
    adapted.set_adapter("second")
    assert np.array_equal(adapted.encode(TEXTS), second)
    adapted.set_adapter("default")
    assert np.array_equal(adapted.encode(TEXTS), first)
    adapted.set_adapter(["default", "second"])
    assert adapted.active_adapters() == ["default", "second"]
    assert not np.allclose(adapted.encode(TEXTS), first)
    with pytest.raises(ValueError, match="One adapter is saved at a time"):
        adapted.save(saved)


def test_disabled_adapters_take_no_part(tiny_model: Any) -> None:
    plain = tiny_model.encode(TEXTS)
    tiny_model.add_adapter(lora(modules_to_save=["intermediate.dense"]))
    changed = stir(tiny_model).encode(TEXTS)
    tiny_model.disable_adapters()
    assert np.array_equal(tiny_model.encode(TEXTS), plain)
    tiny_model.enable_adapters()
    assert np.array_equal(tiny_model.encode(TEXTS), changed)
    assert not np.allclose(changed, plain)


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["intermediate.dense"]}])
def test_without_its_last_adapter_a_model_is_what_it_was(
    tiny_model: Any, tmp_path: Path, options: Any
) -> None:
    before, names = tiny_model.encode(TEXTS), list(tiny_model.state_dict())
    tiny_model.add_adapter(lora(**options))
    stir(tiny_model).delete_adapter("default")
    assert list(tiny_model.state_dict()) == names
    assert all(weight.requires_grad for weight in tiny_model.parameters())
    assert not tiny_model.has_adapters
    tiny_model.save(tmp_path / "whole")
    assert np.array_equal(SentenceTransformer(tmp_path / "whole", device="cpu").encode(TEXTS), before)


def test_a_weight_is_loaded_from_values_too(adapted: Any, tiny_folder: Path) -> None:
    other = SentenceTransformer(tiny_folder, device="cpu")
    other.load_adapter(
        peft_config=lora(), adapter_state_dict=adapted.get_adapter_state_dict(), is_trainable=True
    )
    assert np.array_equal(other.encode(TEXTS), adapted.encode(TEXTS))
    assert sum(weight.requires_grad for weight in other.parameters()) == 8


def test_weights_are_taken_over_in_place_without_the_base(
    saved: Path, adapted: Any, tiny_folder: Path
) -> None:
    expected = adapted.encode(TEXTS)
    config = json.loads((saved / "adapter_config.json").read_text())
    write_json(saved / "adapter_config.json", {**config, "base_model_name_or_path": "nobody/nothing"})
    other = SentenceTransformer(tiny_folder, device="cpu")
    other.add_adapter(lora(), "mine")
    weight = next(weight for weight in other.parameters() if weight.requires_grad)
    other.load_weights(saved)
    assert np.array_equal(other.encode(TEXTS), expected)
    assert weight is next(weight for weight in other.parameters() if weight.requires_grad)


def test_later_modules_take_over_their_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        parts = [Transformer(tiny_encoder), Pooling(32), Dense(32, 8)]
        model = SentenceTransformer(modules=parts, device="cpu")
        model.add_adapter(lora())
        return stir(model, seed)

    one, two = make(1), make(2)
    one.save(tmp_path / "one")
    two.load_weights(tmp_path / "one")
    assert np.array_equal(one.encode(TEXTS), two.encode(TEXTS))
    assert np.array_equal(
        SentenceTransformer(tmp_path / "one", device="cpu").encode(TEXTS), one.encode(TEXTS)
    )


def test_another_adapter_is_not_taken_over(saved: Path, tiny_folder: Path) -> None:
    other = SentenceTransformer(tiny_folder, device="cpu")
    other.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, lora_alpha=16))
    with pytest.raises(ModelFolderError, match="has lora_alpha 8; this model's adapter 'default' has 16"):
        other.load_weights(saved)
    with pytest.raises(ModelFolderError, match=r"adapter_config\.json .* there is no such file"):
        other.load_weights(tiny_folder)


def test_a_whole_model_and_an_adapter_never_share_a_folder_by_accident(
    saved: Path, adapted: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    whole = SentenceTransformer(tiny_folder, device="cpu")
    whole.save(tmp_path / "whole")
    with pytest.raises(ValueError, match="only the adapter would be saved"):
        adapted.save(tmp_path / "whole")
    whole.save(saved)
    assert np.array_equal(SentenceTransformer(saved, device="cpu").encode(TEXTS), whole.encode(TEXTS))
    adapted.save(tmp_path / "adapter")
    adapted.save(tmp_path / "adapter")


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, {"format": "pt"})


NAME = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda tensors: tensors.pop(NAME),
            r"lacks 1 weights, the first is encoder\.layer\.0.*lora_A\.weight",
        ),
        (
            lambda tensors: tensors.update(other=torch.zeros(1)),
            "has 1 weights that this model lacks, the first is other",
        ),
        (lambda tensors: tensors.update({NAME: torch.zeros(5, 32)}), "does not fit this model"),
    ],
)
def test_weights_that_do_not_fit(saved: Path, tiny_folder: Path, edit: Any, message: str) -> None:
    change(saved, edit)
    model = SentenceTransformer(tiny_folder, device="cpu")
    with pytest.raises(ModelFolderError, match=message):
        model.load_adapter(saved)
    assert not model.has_adapters


def test_pickled_weights_are_not_read(saved: Path) -> None:
    (saved / "adapter_model.safetensors").rename(saved / "adapter_model.bin")
    with pytest.raises(ModelFolderError, match="can run code when they are opened"):
        SentenceTransformer(saved, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "sets megatron_config, which names code"),
        ({"peft_type": "NOTHING"}, "peft cannot read"),
        ({"peft_type": None}, "there is no peft_type"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "/not/there"}, "names a base model that does not exist"),
    ],
)
def test_configurations_that_cannot_be_used(saved: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((saved / "adapter_config.json").read_text())
    write_json(saved / "adapter_config.json", {**config, **change})
    with pytest.raises(ModelFolderError, match=message):
        SentenceTransformer(saved, device="cpu")


def test_an_adapter_of_an_adapter(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    for file in saved.glob("adapter_*"):
        (tmp_path / "second" / file.name).write_bytes(file.read_bytes())
    config = json.loads((saved / "adapter_config.json").read_text())
    write_json(saved / "adapter_config.json", {**config, "base_model_name_or_path": str(tmp_path / "second")})
    with pytest.raises(ModelFolderError, match="which holds an adapter itself"):
        SentenceTransformer(saved, device="cpu")


def test_a_damaged_file(saved: Path) -> None:
    (saved / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelFolderError, match="is damaged"):
        SentenceTransformer(saved, device="cpu")


def test_names_and_arguments(adapted: Any, saved: Path, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="already"):
        adapted.add_adapter(lora())
    with pytest.raises(ValueError, match="cannot be named 'query'"):
        adapted.add_adapter(lora(), "query")
    with pytest.raises(ValueError, match=r"no adapter 'other'; the model has \['default'\]"):
        adapted.set_adapter("other")
    with pytest.raises(ValueError, match="no adapter 'other'"):
        adapted.delete_adapter("other")
    with pytest.raises(ValueError, match=r"must be a peft\.PeftConfig; got dict"):
        adapted.add_adapter({"r": 4})
    with pytest.raises(ValueError, match="either peft_model_id"):
        adapted.load_adapter()
    with pytest.raises(ValueError, match="not_there"):
        adapted.add_adapter(lora(target_modules=["not_there"]), "second")
    assert adapted.active_adapters() == ["default"]
    adapted.add_adapter(lora(), "second")
    plain = SentenceTransformer(tiny_folder, device="cpu")
    with pytest.raises(ValueError, match="not_there"):
        plain.add_adapter(lora(target_modules=["not_there"]))
    assert not plain.has_adapters
    with pytest.raises(ValueError, match="The model has no adapter; add_adapter"):
        plain.active_adapters()


def test_only_encoders_can_be_adapted() -> None:
    with pytest.raises(ValueError, match="this model's first is Dense"):
        SentenceTransformer(modules=[Dense(4, 4)], device="cpu").add_adapter(lora())


def test_without_peft_the_extra_is_named(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "ray-st\[peft\]"'):
        tiny_model.add_adapter(None)


def test_a_base_from_the_hubs_cache_is_named_not_its_folder(tiny_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--us--tiny" / "snapshots" / "abc123"
    cache.parent.mkdir(parents=True)
    cache.symlink_to(tiny_folder)
    model = SentenceTransformer(cache, device="cpu")
    model.add_adapter(lora())
    model.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("us/tiny", "abc123")


# ---- put in by hand ----

OLDER_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks by it


def wrapped(model: Any, **options: Any) -> Any:
    """The model with a PeftModel in its encoder's place."""
    model[0].auto_model = peft.get_peft_model(model[0].auto_model, lora(**options))
    return model


@OLDER_NAME
def test_a_peft_model_put_in_by_hand_works_like_an_added_adapter(
    tiny_folder: Path, tmp_path: Path, adapted: Any
) -> None:
    model = stir(wrapped(SentenceTransformer(tiny_folder, device="cpu")))
    model.check_adapters()
    np.testing.assert_allclose(model.encode(TEXTS), adapted.encode(TEXTS), atol=1e-6)
    assert model.has_adapters
    assert model.active_adapters() == ["default"]
    model.save(tmp_path / "by hand")
    adapted.save(tmp_path / "added")
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("by hand", "added")]
    torch.testing.assert_close(*files)
    again = SentenceTransformer(tmp_path / "by hand", device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), adapted.encode(TEXTS), atol=1e-6)
    stir(model, seed=1)
    model.load_weights(tmp_path / "added")
    np.testing.assert_allclose(model.encode(TEXTS), adapted.encode(TEXTS), atol=1e-6)
    model.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="an adapter 'default' already"):
        model.add_adapter(lora())
    model.add_adapter(lora(), "another")
    assert model.active_adapters() == ["another"]
    model.delete_adapter(["default", "another"])
    assert type(model[0].auto_model).__name__ == "BertModel"
    assert np.array_equal(model.encode(TEXTS), SentenceTransformer(tiny_folder, device="cpu").encode(TEXTS))


@OLDER_NAME
def test_what_a_user_merged_is_saved_whole(tiny_model: Any, tmp_path: Path) -> None:
    model = stir(wrapped(tiny_model))
    expected = model.encode(TEXTS)
    assert model.has_adapters
    model[0].auto_model = model[0].auto_model.merge_and_unload()
    model.save(tmp_path)
    found = SentenceTransformer(tmp_path, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@OLDER_NAME
def test_a_trained_prompt_is_refused(tiny_model: Any) -> None:
    config = peft.PromptTuningConfig(task_type=peft.TaskType.FEATURE_EXTRACTION, num_virtual_tokens=2)
    tiny_model[0].auto_model = peft.get_peft_model(tiny_model[0].auto_model, config)
    with pytest.raises(
        ValueError,
        match=r"PeftModelForFeatureExtraction of \['PromptTuningConfig'\], .* Give the plain encoder an adapter",
    ):
        tiny_model.check_adapters()


# ---- merged ----


@OLDER_NAME
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["LayerNorm"]}, {"use_dora": True}])
def test_a_merged_model_is_a_plain_one_of_the_same_embeddings(
    by_hand: bool, options: dict[str, Any], tiny_model: Any, tmp_path: Path
) -> None:
    if by_hand:
        wrapped(tiny_model, **options)
    else:
        tiny_model.add_adapter(lora(**options))
    expected = stir(tiny_model).encode(TEXTS)
    tiny_model.merge_adapters()
    assert not tiny_model.has_adapters
    assert all(weight.requires_grad for weight in tiny_model.parameters())
    tiny_model.save(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    for model in (tiny_model, SentenceTransformer(tmp_path, device="cpu")):
        np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)


def test_all_adapters_count_when_some_are_merged(adapted: Any) -> None:
    adapted.add_adapter(lora(), "other")
    stir(adapted, seed=1)
    with pytest.raises(
        ValueError, match=r"also has the adapters \['default'\], which are not active and would be lost"
    ):
        adapted.merge_adapters()
    with pytest.raises(ValueError, match=r"merges the active adapters, \['other'\]; got \['default'\]"):
        adapted.merge_adapters("default")
    with pytest.raises(ValueError, match="no adapter 'unknown'"):
        adapted.merge_adapters("unknown")
    adapted.set_adapter(["default", "other"])
    adapted.disable_adapters()
    with pytest.raises(ValueError, match="The adapters are disabled"):
        adapted.merge_adapters()
    adapted.enable_adapters()
    expected = adapted.encode(TEXTS)
    adapted.merge_adapters(["other", "default"])
    np.testing.assert_allclose(adapted.encode(TEXTS), expected, atol=1e-5)
    with pytest.raises(ValueError, match="has no adapter"):
        adapted.merge_adapters()
