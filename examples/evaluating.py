"""Evaluators by themselves: scored pairs, triplets, several at once; they need a model, not a trainer."""

from __future__ import annotations

from offline import Run, command_line
from ray_st import SentenceTransformer
from ray_st.evaluation import (
    EmbeddingSimilarityEvaluator,
    NanoBEIREvaluator,
    SequentialEvaluator,
    SimilarityFunction,
    TripletEvaluator,
)


def main(run: Run) -> None:
    """Measures a model as it is."""
    model = SentenceTransformer(run.model("all-MiniLM-L6-v2"))

    # Do cosines rank pairs as people did?
    stsb = run.load_dataset("sentence-transformers/stsb", split="validation")
    sts_evaluator = EmbeddingSimilarityEvaluator(
        sentences1=stsb["sentence1"],
        sentences2=stsb["sentence2"],
        scores=stsb["score"],
        main_similarity=SimilarityFunction.COSINE,
        name="sts-dev",
    )
    show(sts_evaluator(model))

    # How often is the positive nearer than the negative?
    all_nli = run.load_dataset("sentence-transformers/all-nli", "triplet", split="dev[:1000]")
    triplet_evaluator = TripletEvaluator(
        anchors=all_nli["anchor"],
        positives=all_nli["positive"],
        negatives=all_nli["negative"],
        main_distance_function=SimilarityFunction.COSINE,
        name="all-nli-dev",
    )
    show(triplet_evaluator(model))

    # Several as one; the last one's figure is what a trainer would choose models by
    evaluator = SequentialEvaluator([sts_evaluator, triplet_evaluator])
    show(evaluator(model))
    print("chosen by:", evaluator.primary_metric)

    if not run.offline:  # reads its thirteen small data sets from the Hub
        show(NanoBEIREvaluator()(model))


def show(figures: dict[str, float]) -> None:
    """Prints figures, one a line."""
    for name, figure in figures.items():
        print(f"{name}: {figure:.4f}")


if __name__ == "__main__":
    main(command_line(__doc__))
