"""Evaluators without a trainer: scored pairs, triplets, several at once."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer
from ray_st.evaluation import (
    EmbeddingSimilarityEvaluator,
    NanoBEIREvaluator,
    SequentialEvaluator,
    SimilarityFunction,
    TripletEvaluator,
)


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Evaluates a model."""
    model = SentenceTransformer("all-MiniLM-L6-v2")

    # Do cosine similarities rank pairs as people did?
    stsb = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    sts_evaluator = EmbeddingSimilarityEvaluator(
        sentences1=stsb["sentence1"],
        sentences2=stsb["sentence2"],
        scores=stsb["score"],
        main_similarity=SimilarityFunction.COSINE,
        name="sts-dev",
    )
    show(sts_evaluator(model))

    # How often is the positive closer than the negative?
    all_nli = datasets.load_dataset("sentence-transformers/all-nli", "triplet", split="dev[:1000]")
    triplet_evaluator = TripletEvaluator(
        anchors=all_nli["anchor"],
        positives=all_nli["positive"],
        negatives=all_nli["negative"],
        main_distance_function=SimilarityFunction.COSINE,
        name="all-nli-dev",
    )
    show(triplet_evaluator(model))

    # Several as one; the last one's metric is what a trainer would select models by
    evaluator = SequentialEvaluator([sts_evaluator, triplet_evaluator])
    show(evaluator(model))
    print("chosen by:", evaluator.primary_metric)

    # Does search find what it should? Thirteen small datasets of the Hub, some by name
    show(NanoBEIREvaluator(["msmarco", "nq"])(model))


def show(metrics: dict[str, float]) -> None:
    """Prints metrics, one per line."""
    for name, value in metrics.items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    start(main)
