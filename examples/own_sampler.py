"""A batch sampler of our own, by a subclass of the trainer: short texts first, then longer ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from offline import Run, command_line
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss


class ShortFirst:
    """Batches of rows in the order of their texts' lengths.

    Args:
        dataset: The rows.
        batch_size: Rows of a batch of the whole cluster; the trainer cuts it for the workers.
    """

    def __init__(self, dataset: Dataset, batch_size: int) -> None:
        lengths = [len(text) for text in dataset["anchor"]]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self.batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches

    def __len__(self) -> int:
        return len(self.batches)


class ShortFirstTrainer(SentenceTransformerTrainer):
    """Trains on short texts first."""

    def get_batch_sampler(self, dataset: Dataset, batch_size: int, *args: Any, **options: Any) -> ShortFirst:
        """Called once, before the workers start."""
        sampler = ShortFirst(dataset, batch_size)
        print("first batch:", dataset[sampler.batches[0][:3]]["anchor"], "...")
        return sampler


def main(run: Run) -> None:
    """Trains on short texts first."""
    model = SentenceTransformer(run.model("microsoft/mpnet-base"))
    args = SentenceTransformerTrainingArguments(
        output_dir=run.folder("short-first"), num_train_epochs=1, per_device_train_batch_size=16
    )
    trainer = ShortFirstTrainer(
        model=model,
        args=run.arguments(args),
        train_dataset=run.load_dataset("sentence-transformers/all-nli", "pair", split="train[:10000]"),
        loss=MultipleNegativesRankingLoss(model),
        scaling_config=run.scaling,
    )
    print(trainer.train())


if __name__ == "__main__":
    main(command_line(__doc__))
