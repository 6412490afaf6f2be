"""Which losses fit which data: pairs, triplets, pairs with a class, pairs with a score; and training on pairs with scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offline import Run, command_line
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
"""The formats of all-nli, and losses that take them. Inputs are the columns not named label or score, in order."""


def main(run: Run) -> None:
    """Shows what fits, what is refused, and a training without an evaluator."""
    model = SentenceTransformer(run.model("xlm-roberta-base"))
    for subset, fitting in FORMATS.items():
        dataset = run.load_dataset("sentence-transformers/all-nli", subset, split="train[:10000]")
        print(f"{subset}: {dataset.column_names} for {', '.join(fitting)}")

    # What does not fit is refused before anything starts.
    try:
        make_trainer(run, model, "triplet", losses.CoSENTLoss(model)).train()
    except ValueError as error:
        print("refused:", error)

    trainer = make_trainer(run, model, "pair-score", FORMATS["pair-score"]["CoSENTLoss"](model))
    trainer.train()
    print("losses:", [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry])


def make_trainer(run: Run, model: SentenceTransformer, subset: str, loss: Any) -> SentenceTransformerTrainer:
    """A trainer for one format, without evaluation."""
    args = SentenceTransformerTrainingArguments(run.folder(f"all-nli-{subset}"), logging_steps=100)
    return SentenceTransformerTrainer(
        model=model,
        args=run.arguments(args),
        train_dataset=run.load_dataset("sentence-transformers/all-nli", subset, split="train[:10000]"),
        loss=loss,
        scaling_config=run.scaling,
    )


if __name__ == "__main__":
    main(command_line(__doc__))
