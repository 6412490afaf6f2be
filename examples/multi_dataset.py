"""Seven data sets of four formats in one training, each with the loss that fits it."""

from __future__ import annotations

from offline import Run, command_line
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import CoSENTLoss, MultipleNegativesRankingLoss, SoftmaxLoss


def main(run: Run) -> None:
    """Trains on all, evaluates on four."""
    model = SentenceTransformer(run.model("bert-base-uncased"))

    # Data sets by name; a batch holds rows of one of them. By default all rows are used, in proportion.
    all_nli, part = "sentence-transformers/all-nli", "train[:10000]"
    train_dataset = {
        "all-nli-pair": run.load_dataset(all_nli, "pair", part),
        "all-nli-pair-class": run.load_dataset(all_nli, "pair-class", part),
        "all-nli-pair-score": run.load_dataset(all_nli, "pair-score", part),
        "all-nli-triplet": run.load_dataset(all_nli, "triplet", part),
        "stsb": run.load_dataset("sentence-transformers/stsb", split=part),
        "quora": run.load_dataset("sentence-transformers/quora-duplicates", "pair", part),
        "natural-questions": run.load_dataset("sentence-transformers/natural-questions", split=part),
    }
    held_out = "train[10000:11000]"
    eval_dataset = {
        "all-nli-triplet": run.load_dataset(all_nli, "triplet", "dev"),
        "stsb": run.load_dataset("sentence-transformers/stsb", split="validation"),
        "quora": run.load_dataset("sentence-transformers/quora-duplicates", "pair", held_out),
        "natural-questions": run.load_dataset("sentence-transformers/natural-questions", split=held_out),
    }

    # A loss for each name; several names may share one. A single loss for all would be given as it is.
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
        output_dir=run.folder("bert-base-all-nli-stsb-quora-nq"), eval_strategy="steps", eval_steps=1000
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=run.arguments(args),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        loss=losses,
        scaling_config=run.scaling,
    )
    trainer.train()
    for name in eval_dataset:
        found = [entry for entry in trainer.state.log_history if f"eval_{name}_loss" in entry]
        print(name, {entry["step"]: round(entry[f"eval_{name}_loss"], 3) for entry in found})

    model.save_pretrained(run.folder("bert-base-all-nli-stsb-quora-nq/final"))
    if run.push:
        model.push_to_hub("bert-base-all-nli-stsb-quora-nq")


if __name__ == "__main__":
    main(command_line(__doc__))
