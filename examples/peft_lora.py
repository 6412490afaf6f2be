"""Training a small adapter instead of the whole model: pip install 'ray-st[peft]'."""

from __future__ import annotations

from pathlib import Path

import datasets
from peft import LoraConfig, TaskType
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import CachedMultipleNegativesRankingLoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains, saves and loads an adapter."""
    model = SentenceTransformer("google-bert/bert-base-uncased")
    model.add_adapter(
        LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=16, lora_alpha=32, lora_dropout=0.1)
    )
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    print(f"{trained:,} of {sum(weights.numel() for weights in model.parameters()):,} weights are trained")

    args = SentenceTransformerTrainingArguments(
        output_dir="models/lora",
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=2e-4,
        batch_sampler="no_duplicates",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/all-nli", "pair", split="train[:10000]"),
        loss=CachedMultipleNegativesRankingLoss(model, mini_batch_size=16),
        scaling_config=scaling_config,
    )
    print(trainer.train())

    folder = Path("models/lora/final")
    model.save_pretrained(str(folder))  # the adapter alone, and where the rest is to be found
    print("saved:", sorted(file.name for file in folder.glob("adapter*")))
    print("an embedding:", SentenceTransformer(str(folder)).encode("It works.").shape)


if __name__ == "__main__":
    start(main)
