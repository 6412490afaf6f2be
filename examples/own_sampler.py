"""A custom batch sampler, in a subclass of the trainer: short texts first, then longer ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss


class ShortFirst:
    """Batches of rows, ordered by the length of their texts.

    Args:
        dataset: The rows.
        batch_size: Rows of a batch of the whole cluster; the trainer splits it among the workers.
    """

    def __init__(self, dataset: datasets.Dataset, batch_size: int) -> None:
        lengths = [len(text) for text in dataset["anchor"]]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self.batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches

    def __len__(self) -> int:
        return len(self.batches)


class ShortFirstTrainer(SentenceTransformerTrainer):
    """Trains on short texts first."""

    def get_batch_sampler(
        self, dataset: datasets.Dataset, batch_size: int, *args: Any, **options: Any
    ) -> ShortFirst:
        """Called once, before the workers start."""
        sampler = ShortFirst(dataset, batch_size)
        print("first batch:", dataset[sampler.batches[0][:3]]["anchor"], "...")
        return sampler


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains on short texts first."""
    model = SentenceTransformer("microsoft/mpnet-base")
    args = SentenceTransformerTrainingArguments(
        output_dir="models/short-first", num_train_epochs=1, per_device_train_batch_size=16
    )
    trainer = ShortFirstTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/all-nli", "pair", split="train[:10000]"),
        loss=MultipleNegativesRankingLoss(model),
        scaling_config=scaling_config,
    )
    print(trainer.train())


if __name__ == "__main__":
    start(main)
