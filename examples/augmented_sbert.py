"""Augmented SBERT: a reranker learns from few labelled pairs, labels many others, and an embedder learns from all."""

from __future__ import annotations

import datasets
from datasets import Dataset, concatenate_datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from ray_st.cross_encoder.losses import BinaryCrossEntropyLoss
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import CosineSimilarityLoss
from ray_st.util import semantic_search

BASE = "sentence-transformers/all-MiniLM-L6-v2"


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains both models."""
    gold = datasets.load_dataset("sentence-transformers/stsb", split="train")
    reranker = CrossEncoder(BASE, num_labels=1, max_length=128)
    CrossEncoderTrainer(
        model=reranker,
        args=CrossEncoderTrainingArguments("models/augmented-sbert/reranker", num_train_epochs=1),
        train_dataset=gold,
        loss=BinaryCrossEntropyLoss(reranker),
        scaling_config=scaling_config,
    ).train()

    embedder = SentenceTransformer(BASE)
    silver = labelled(similar_pairs(sorted({*gold["sentence1"], *gold["sentence2"]}), embedder), reranker)
    print(f"{len(gold)} gold pairs, {len(silver)} silver pairs")

    dev = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    evaluator = EmbeddingSimilarityEvaluator(dev["sentence1"], dev["sentence2"], dev["score"], name="sts-dev")
    before = evaluator(embedder)["sts-dev_spearman_cosine"]
    SentenceTransformerTrainer(
        model=embedder,
        args=SentenceTransformerTrainingArguments("models/augmented-sbert/embedder", num_train_epochs=1),
        train_dataset=concatenate_datasets([gold, silver]),
        loss=CosineSimilarityLoss(embedder),
        scaling_config=scaling_config,
    ).train()
    print(f"sts-dev: {before:.4f} -> {evaluator(embedder)['sts-dev_spearman_cosine']:.4f}")
    embedder.save_pretrained("models/augmented-sbert/final")


def similar_pairs(texts: list[str], embedder: SentenceTransformer) -> list[tuple[str, str]]:
    """Each text with its nearest others: pairs drawn at random would nearly all be unrelated."""
    embeddings = embedder.encode(texts, convert_to_tensor=True)
    found = semantic_search(embeddings, embeddings, top_k=4)
    numbers = {
        tuple(sorted((place, int(hit["corpus_id"])))) for place, hits in enumerate(found) for hit in hits
    }
    return [(texts[one], texts[other]) for one, other in sorted(numbers) if one != other]


def labelled(pairs: list[tuple[str, str]], reranker: CrossEncoder) -> Dataset:
    """The pairs with the reranker's scores, from 0 to 1."""
    first, second = map(list, zip(*pairs, strict=True))
    scores = reranker.predict(pairs).astype("float64").tolist()
    return Dataset.from_dict({"sentence1": first, "sentence2": second, "score": scores})


if __name__ == "__main__":
    start(main)
