"""Which losses fit which data: pairs, triplets, pairs with a class or a score; training on scored pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)

FORMATS: dict[str, dict[str, Callable[[SentenceTransformer], Any]]] = {
    "pair": {
        "MultipleNegativesRankingLoss": losses.MultipleNegativesRankingLoss,
        "MultipleNegativesSymmetricRankingLoss": losses.MultipleNegativesSymmetricRankingLoss,
    },
    "triplet": {
        "MultipleNegativesRankingLoss": losses.MultipleNegativesRankingLoss,
        "TripletLoss": losses.TripletLoss,
    },
    "pair-class": {
        "SoftmaxLoss": lambda model: losses.SoftmaxLoss(model, model.get_sentence_embedding_dimension(), 3),
    },
    "pair-score": {
        "CoSENTLoss": losses.CoSENTLoss,
        "AnglELoss": losses.AnglELoss,
        "CosineSimilarityLoss": losses.CosineSimilarityLoss,
    },
}
"""The formats of all-nli, and losses for them. Inputs are the columns not named label or score, in order."""


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Shows what fits, what raises an error, and training without an evaluator."""
    model = SentenceTransformer("xlm-roberta-base")
    for subset, fitting in FORMATS.items():
        dataset = datasets.load_dataset("sentence-transformers/all-nli", subset, split="train[:10000]")
        print(f"{subset}: {dataset.column_names} for {', '.join(fitting)}")

    # Data that does not fit raises an error before anything starts.
    try:
        make_trainer(model, "triplet", losses.CoSENTLoss(model), scaling_config).train()
    except ValueError as error:
        print("refused:", error)

    trainer = make_trainer(model, "pair-score", losses.CoSENTLoss(model), scaling_config)
    trainer.train()
    print("losses:", [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry])


def make_trainer(
    model: SentenceTransformer, subset: str, loss: Any, scaling_config: ScalingConfig | None
) -> SentenceTransformerTrainer:
    """A trainer for one format, without evaluation."""
    args = SentenceTransformerTrainingArguments(f"models/all-nli-{subset}", logging_steps=10)
    return SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/all-nli", subset, split="train[:10000]"),
        loss=loss,
        scaling_config=scaling_config,
    )


if __name__ == "__main__":
    start(main)
