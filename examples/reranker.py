"""Training a reranker: from labelled pairs, then from lists of documents; before and after."""

from __future__ import annotations

import datasets
from datasets import Dataset
from ray.train import ScalingConfig

from offline import start
from ray_st import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from ray_st.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator
from ray_st.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains with two losses, one after the other."""
    model = CrossEncoder("distilbert/distilbert-base-uncased", num_labels=1, max_length=128)
    train = datasets.load_dataset("sentence-transformers/stsb", split="train")
    dev = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    pairs = list(zip(dev["sentence1"], dev["sentence2"], strict=True))
    evaluator = CrossEncoderCorrelationEvaluator(pairs, dev["score"], name="sts-dev")
    print(f"before: {evaluator(model)[evaluator.primary_metric]:.4f}")

    for name, data, loss in (
        ("pairs", train, BinaryCrossEntropyLoss(model)),
        ("lists", as_lists(train), LambdaLoss(model, mini_batch_size=32)),
    ):
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(
                f"models/reranker/{name}", num_train_epochs=1, per_device_train_batch_size=16
            ),
            train_dataset=data,
            loss=loss,
            scaling_config=scaling_config,
        )
        trainer.train()
        print(f"{name}: {evaluator(model)[evaluator.primary_metric]:.4f}")

    model.save_pretrained("models/reranker/final")
    for hit in model.rank(dev["sentence1"][0], dev["sentence2"][:5], return_documents=True):
        print(f"{hit['score']:.3f}  {hit['text']}")


def as_lists(scored: Dataset) -> Dataset:
    """A row for each first sentence: all second sentences that it comes with, and their scores."""
    lists: dict[str, dict[str, float]] = {}
    for first, second, score in zip(scored["sentence1"], scored["sentence2"], scored["score"], strict=True):
        lists.setdefault(first, {})[second] = score
    return Dataset.from_dict(
        {
            "query": list(lists),
            "documents": [list(own) for own in lists.values()],
            "labels": [list(own.values()) for own in lists.values()],
        }
    )


if __name__ == "__main__":
    start(main)
