"""Training with prompts: one before each question, another before each answer, stored with the model."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss

PROMPTS = {"query": "query: ", "document": "document: "}


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains with prompts, then encodes with the prompts stored in the model."""
    # The model stores prompts by role: encode_query and encode_document use them.
    model = SentenceTransformer("microsoft/mpnet-base", prompts=PROMPTS)
    args = SentenceTransformerTrainingArguments(
        output_dir="models/prompts",
        num_train_epochs=1,
        per_device_train_batch_size=16,
        # For training they are given by column. Also: one prompt for all columns, or a dict per dataset.
        prompts={"query": PROMPTS["query"], "answer": PROMPTS["document"]},
        batch_sampler="no_duplicates",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/natural-questions", split="train[:10000]"),
        loss=MultipleNegativesRankingLoss(model),
        scaling_config=scaling_config,
    )
    trainer.train()
    folder = "models/prompts/final"
    model.save_pretrained(folder)

    saved = SentenceTransformer(folder)
    queries = saved.encode_query(["when does the library close"])
    documents = saved.encode_document(["The library is open until six.", "A fox crossed the garden."])
    print("prompts:", saved.prompts)
    print("similarities:", saved.similarity(queries, documents))


if __name__ == "__main__":
    start(main)
