from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray_st.model_trainer import ModelTrainer


def trainer(model: Any, folder: Path, first: bool = True) -> Any:
    return SimpleNamespace(
        model=model, args=SimpleNamespace(output_dir=str(folder)), is_world_process_zero=lambda: first
    )


def test_what_the_caller_says_is_in_the_card(tiny_model: Any, tmp_path: Path) -> None:
    ModelTrainer.create_model_card(
        trainer(tiny_model, tmp_path),
        language="de",
        license="mit",
        tags="mine",
        model_name="My model",
        finetuned_from="bert-base-cased",
        tasks=["retrieval"],
        dataset="stsb",
    )
    text = (tmp_path / "README.md").read_text()
    for said in ("de", "license: mit", "- mine", "# My model", "bert-base-cased", "- retrieval", "stsb"):
        assert said in text
    assert tiny_model.model_card_data.license == "mit"
    ModelTrainer.create_model_card(trainer(tiny_model, tmp_path), finetuned_from="other")
    assert "bert-base-cased" in (tmp_path / "README.md").read_text()


def test_only_the_first_rank_writes(tiny_model: Any, tmp_path: Path) -> None:
    ModelTrainer.create_model_card(trainer(tiny_model, tmp_path, first=False))
    assert not list(tmp_path.iterdir())
