"""The older way of training a reranker: `fit` with a DataLoader of InputExamples, and an evaluator's older name."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig
from torch.utils.data import DataLoader

from offline import start
from ray_st import CrossEncoder, InputExample
from ray_st.cross_encoder.evaluation import CECorrelationEvaluator


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains on scored pairs."""
    model = CrossEncoder("distilbert/distilbert-base-uncased", num_labels=1, max_length=128)
    examples = {split: read(split) for split in ("train", "validation")}
    train_dataloader = DataLoader(examples["train"], shuffle=True, batch_size=16)
    evaluator = CECorrelationEvaluator.from_input_examples(examples["validation"], name="sts-dev")
    model.fit(
        train_dataloader=train_dataloader,
        evaluator=evaluator,
        epochs=1,
        warmup_steps=2,
        output_path="models/legacy-reranker-fit",
        scaling_config=scaling_config,
    )
    print("score:", model.predict(examples["validation"][0].texts))


def read(split: str) -> list[InputExample]:
    """The pairs of a split as examples."""
    rows = datasets.load_dataset("sentence-transformers/stsb", split=split)
    return [InputExample(texts=[row["sentence1"], row["sentence2"]], label=row["score"]) for row in rows]


if __name__ == "__main__":
    start(main)
