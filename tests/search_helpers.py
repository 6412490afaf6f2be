"""What tests of searches share: rows, and a trainer whose trials take a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from ray_st import SentenceTransformer, SentenceTransformerTrainer, losses
from ray_st.training_args import SentenceTransformerTrainingArguments

WORDS = ["good", "bad", "weather", "man", "eats", "pasta", "sunny", "text"]
ANCHORS = [f"{WORDS[i % 8]} {WORDS[i // 8]} a" for i in range(64)]
POSITIVES = [f"{WORDS[i // 8]} the {WORDS[i % 8]}" for i in range(64)]


def make_trainer(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    """Trains 64 pairs in 12 steps."""

    def model_init() -> SentenceTransformer:
        return SentenceTransformer(str(model_folder), device="cpu")

    def loss_init(model: Any) -> Any:
        return losses.MultipleNegativesRankingLoss(model)

    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        save_strategy="no",
        report_to=[],
        **options.pop("arguments", {}),
    )
    data = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES})
    return SentenceTransformerTrainer(
        args=args, train_dataset=data, eval_dataset=data, model_init=model_init, loss=loss_init, **options
    )
