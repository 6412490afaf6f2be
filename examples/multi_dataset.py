"""Seven datasets in four formats in one training, each with a loss that fits."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import CoSENTLoss, MultipleNegativesRankingLoss, SoftmaxLoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains on all of them, evaluates on four."""
    model = SentenceTransformer("bert-base-uncased")

    # Datasets by name; a batch holds rows of one of them. By default all rows are used, in proportion.
    all_nli, part = "sentence-transformers/all-nli", "train[:10000]"
    train_dataset = {
        "all-nli-pair": datasets.load_dataset(all_nli, "pair", part),
        "all-nli-pair-class": datasets.load_dataset(all_nli, "pair-class", part),
        "all-nli-pair-score": datasets.load_dataset(all_nli, "pair-score", part),
        "all-nli-triplet": datasets.load_dataset(all_nli, "triplet", part),
        "stsb": datasets.load_dataset("sentence-transformers/stsb", split=part),
        "quora": datasets.load_dataset("sentence-transformers/quora-duplicates", "pair", part),
        "natural-questions": datasets.load_dataset("sentence-transformers/natural-questions", split=part),
    }
    held_out = "train[10000:11000]"
    eval_dataset = {
        "all-nli-triplet": datasets.load_dataset(all_nli, "triplet", "dev"),
        "stsb": datasets.load_dataset("sentence-transformers/stsb", split="validation"),
        "quora": datasets.load_dataset("sentence-transformers/quora-duplicates", "pair", held_out),
        "natural-questions": datasets.load_dataset("sentence-transformers/natural-questions", split=held_out),
    }

    # A loss per name; several names may share one. A single loss for all is passed without a dict.
    mnrl_loss = MultipleNegativesRankingLoss(model)
    softmax_loss = SoftmaxLoss(model, model.get_sentence_embedding_dimension(), 3)
    cosent_loss = CoSENTLoss(model)
    losses = {
        "all-nli-pair": mnrl_loss,
        "all-nli-pair-class": softmax_loss,
        "all-nli-pair-score": cosent_loss,
        "all-nli-triplet": mnrl_loss,
        "stsb": cosent_loss,
        "quora": mnrl_loss,
        "natural-questions": mnrl_loss,
    }

    args = SentenceTransformerTrainingArguments(
        output_dir="models/bert-base-all-nli-stsb-quora-nq", eval_strategy="epoch"
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        loss=losses,
        scaling_config=scaling_config,
    )
    trainer.train()
    for name in eval_dataset:
        found = [entry for entry in trainer.state.log_history if f"eval_{name}_loss" in entry]
        print(name, {entry["step"]: round(entry[f"eval_{name}_loss"], 3) for entry in found})

    model.save_pretrained("models/bert-base-all-nli-stsb-quora-nq/final")
    # model.push_to_hub("bert-base-all-nli-stsb-quora-nq")


if __name__ == "__main__":
    start(main)
