"""GPL: an embedder adapts to a new domain without labels, from queries, mined negatives and a reranker's margins.

Queries are usually generated from the domain's passages by a language model; here they are given. The reranker
needs no training on the domain, and says by how much a passage answers a query better than a mined negative.
"""

from __future__ import annotations

import datasets
from datasets import Dataset
from ray.train import ScalingConfig
from torch import nn

from offline import start
from ray_st import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    mine_hard_negatives,
)
from ray_st.losses import MarginMSELoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Mines, scores and trains."""
    queries = datasets.load_dataset("sentence-transformers/natural-questions", split="train[:2000]")
    embedder = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
    mined = mine_hard_negatives(queries, embedder, num_negatives=2, range_max=20, output_format="triplet")

    reranker = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2", num_labels=1)
    train = with_margins(mined, reranker)
    print(f"{len(train)} rows of {train.column_names}")
    trainer = SentenceTransformerTrainer(
        model=embedder,
        args=SentenceTransformerTrainingArguments(
            "models/gpl", num_train_epochs=1, per_device_train_batch_size=32
        ),
        train_dataset=train,
        loss=MarginMSELoss(embedder),
        scaling_config=scaling_config,
    )
    trainer.train()
    embedder.save_pretrained("models/gpl/final")
    after = trainer.state.log_history[-1]["train_loss"]
    print(f"mean loss: {after:.4f}")


def with_margins(mined: Dataset, reranker: CrossEncoder) -> Dataset:
    """The triplets with the margins that the embedder learns.

    They are differences of probabilities: embeddings of length one cannot be as far apart as logits are.
    """
    query, positive, negative = (mined[name] for name in mined.column_names)
    scores = [
        reranker.predict(list(zip(query, texts, strict=True)), activation_fn=nn.Sigmoid())
        for texts in (positive, negative)
    ]
    return mined.add_column("label", (scores[0] - scores[1]).astype("float64").tolist())


if __name__ == "__main__":
    start(main)
