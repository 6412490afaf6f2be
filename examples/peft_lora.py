"""Training a small adapter in place of the model: pip install 'ray-st[peft]'."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig, TaskType

from offline import Run, command_line
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import CachedMultipleNegativesRankingLoss


def main(run: Run) -> None:
    """Trains, saves and loads an adapter."""
    model = SentenceTransformer(run.model("google-bert/bert-base-uncased"))
    model.add_adapter(
        LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=16, lora_alpha=32, lora_dropout=0.1)
    )
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    print(f"{trained:,} of {sum(weights.numel() for weights in model.parameters()):,} weights are trained")

    args = SentenceTransformerTrainingArguments(
        output_dir=run.folder("lora"),
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=2e-4,
        batch_sampler="no_duplicates",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=run.arguments(args),
        train_dataset=run.load_dataset("sentence-transformers/all-nli", "pair", split="train[:10000]"),
        loss=CachedMultipleNegativesRankingLoss(model, mini_batch_size=16),
        scaling_config=run.scaling,
    )
    print(trainer.train())

    folder = Path(run.folder("lora/final"))
    model.save_pretrained(str(folder))  # the adapter alone, and where the rest is to be found
    print("saved:", sorted(file.name for file in folder.glob("adapter*")))
    print("an embedding:", SentenceTransformer(str(folder)).encode("It works.").shape)


if __name__ == "__main__":
    main(command_line(__doc__))
