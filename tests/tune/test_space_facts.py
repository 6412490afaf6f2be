"""The default space, from a trainer's parts to its first points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from ray.train import ScalingConfig

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.models import StaticEmbedding
from ray_st.tune.checked_search import check_search
from ray_st.tune.space_facts import facts_of

PAIRS = {"a": ["good text"] * 300, "b": ["a sunny day"] * 300}


def make_trainer(folder: Path, model: Any, data: Any, **options: Any) -> SentenceTransformerTrainer:
    """A trainer with the ranking loss, unless told otherwise."""
    loss = options.pop("loss", lambda model: losses.MultipleNegativesRankingLoss(model))
    scaling = options.pop("scaling_config", None)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "out"), use_cpu=True, report_to=[], **options
    )
    return SentenceTransformerTrainer(
        model_init=lambda: model, loss=loss, args=args, train_dataset=data, scaling_config=scaling
    )


def test_facts_of_a_ranking_loss_on_two_workers(tmp_path: Path, tiny_folder: Path) -> None:
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    weights = sum(weight.numel() for weight in model.parameters())
    facts = facts_of(
        make_trainer(
            tmp_path,
            model,
            {"one": Dataset.from_dict(PAIRS), "other": Dataset.from_dict(PAIRS)},
            scaling_config=ScalingConfig(num_workers=2),
            gradient_accumulation_steps=3,
            max_steps=20,
            warmup_steps=4,
        ),
        makes_data=False,
    )
    assert (facts.weights, facts.trained) == (weights, weights)
    assert (facts.rows, facts.ranks) == (600, 6)
    assert facts.compares_rows
    assert facts.has_layers
    assert not facts.bounded_memory
    assert facts.fixed == {"num_train_epochs": "max_steps", "warmup_ratio": "warmup_steps"}


def test_rows_are_counted_where_that_costs_no_reading(tmp_path: Path, tiny_folder: Path) -> None:
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    dataset = Dataset.from_dict(PAIRS)
    dataset.to_parquet(tmp_path / "pairs.parquet")
    for data, rows in (
        (dataset, 300),
        (PAIRS, 300),
        (str(tmp_path / "pairs.parquet"), 300),
        (dataset.to_iterable_dataset(), None),
    ):
        assert facts_of(make_trainer(tmp_path, model, data), makes_data=False).rows == rows
    assert facts_of(make_trainer(tmp_path, model, dataset), makes_data=True).rows is None


def test_token_vectors_frozen_weights_and_a_gradient_cache(tmp_path: Path, tiny_folder: Path) -> None:
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    static = SentenceTransformer(modules=[StaticEmbedding(model.tokenizer, embedding_dim=8)], device="cpu")
    assert not facts_of(make_trainer(tmp_path, static, PAIRS), makes_data=False).has_layers
    weights = list(model.parameters())
    for weight in weights[1:]:
        weight.requires_grad_(False)

    def cached(model: SentenceTransformer) -> losses.CachedMultipleNegativesRankingLoss:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=8)

    facts = facts_of(make_trainer(tmp_path, model, PAIRS, loss=cached), makes_data=False)
    assert facts.trained == weights[0].numel() < facts.weights
    assert facts.bounded_memory


def test_a_search_takes_it_by_name_and_says_why(tmp_path: Path, tiny_folder: Path) -> None:
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    trainer = make_trainer(tmp_path, model, PAIRS)
    trainer.eval_dataset = Dataset.from_dict(PAIRS)
    found = check_search(trainer, "default", "eval_loss", 4, "minimize")
    assert set(found.distributions) == {"learning_rate", "warmup_ratio", "num_train_epochs"}
    assert "num_train_epochs: 1 to 5: for 300 rows" in found.explained
    assert "per_device_train_batch_size: not searched: 300 rows make fewer than 10 steps" in found.explained
    assert check_search(trainer, None, "eval_loss", 4, "minimize").explained == ""
    with pytest.raises(ValueError, match="or \"default\"; got 'defualt'"):
        check_search(trainer, "defualt", "eval_loss", 4, "minimize")
