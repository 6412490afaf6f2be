"""Samplers of the user's own, and going on without skipping, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.data.mixing import RoundRobinBatchSampler
from ray_st.data.samplers import PlannedBatchSampler
from ray_st.training.ledger import Ledger, read_ledger
from ray_st.training.local import local_place

ROWS = {"a": [f"one {i}" for i in range(12)], "b": [f"two {i}" for i in range(12)]}


class Backwards:
    """Batches from the last row to the first, as a user might write it; it reads the dataset itself."""

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool = False, **options: Any) -> None:
        self.rows, self.batch_size, self.epoch = len(dataset), batch_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        order = list(range(self.rows))[::-1]
        order = order[self.epoch :] + order[: self.epoch]
        yield from (order[start : start + self.batch_size] for start in range(0, self.rows, self.batch_size))

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)


class Overridden(SentenceTransformerTrainer):
    def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> Any:
        assert dataset["a"][0] == "one 0"
        return Backwards(dataset, batch_size)

    def get_multi_dataset_batch_sampler(self, dataset: Any, batch_samplers: Any, **options: Any) -> Any:
        assert dataset.cumulative_sizes == [12, 24]
        return RoundRobinBatchSampler(dataset, batch_samplers)


def used(
    model: Any,
    folder: Path,
    data: Any,
    kind: Any = SentenceTransformerTrainer,
    resume: Any = None,
    **arguments: Any,
) -> list[list[int]]:
    """The rows of each step."""
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "save_strategy": "no", **arguments}
    trainer = kind(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder), **options),
        train_dataset=data,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    ledger = Ledger(folder / "ledger.jsonl")
    place = local_place(trainer._train_parts(1), folder, ledger=ledger)
    trainer._describe().rebuild(place).train(resume_from_checkpoint=resume)
    return [batch for line in read_ledger(ledger.path) for batch in line["rows"]]


BACKWARDS = [[11, 10, 9, 8], [7, 6, 5, 4], [3, 2, 1, 0]]


def test_an_overridden_method(tiny_model: Any, tmp_path: Path) -> None:
    assert used(tiny_model, tmp_path, Dataset.from_dict(ROWS), Overridden) == BACKWARDS


def test_a_class_in_the_arguments(tiny_model: Any, tmp_path: Path) -> None:
    batches = used(tiny_model, tmp_path, ROWS, batch_sampler=Backwards, num_train_epochs=2)
    assert batches[:3] == BACKWARDS
    assert batches[3] == [10, 9, 8, 7]


def test_an_overridden_method_for_several_datasets(tiny_model: Any, tmp_path: Path) -> None:
    data = {"one": Dataset.from_dict(ROWS), "two": Dataset.from_dict(ROWS)}
    batches = used(tiny_model, tmp_path, data, Overridden)
    assert batches[:2] == [BACKWARDS[0], [row + 12 for row in BACKWARDS[0]]]
    assert len(batches) == 6


def test_a_function_for_several_datasets(tiny_model: Any, tmp_path: Path) -> None:
    class LastFirst(RoundRobinBatchSampler):
        def order(self, counts: Any, rng: Any) -> Any:
            return super().order(counts, rng)[::-1]

    data = {"one": ROWS, "two": ROWS}
    batches = used(tiny_model, tmp_path, data, multi_dataset_batch_sampler=LastFirst)
    assert [min(batch) >= 12 for batch in batches] == [True, False] * 3


def test_length_groups(tiny_model: Any, tmp_path: Path) -> None:
    lengths = {
        "a": ["word " * (i % 6 + 1) for i in range(12)],
        "b": ["word " * (i % 6 + 1) for i in range(12)],
    }
    batches = used(tiny_model, tmp_path, lengths, group_by_length=True)
    assert sorted(row for batch in batches for row in batch) == list(range(12))
    assert all(len({row % 6 for row in batch}) == 2 for batch in batches)


def test_ignore_data_skip_begins_the_epoch_anew(tiny_model: Any, tmp_path: Path) -> None:
    unbroken = used(tiny_model, tmp_path / "one", ROWS, save_strategy="steps", save_steps=2)
    start = str(tmp_path / "one" / "checkpoint-2")
    assert used(tiny_model, tmp_path / "two", ROWS, resume=start) == unbroken[2:]
    again = used(tiny_model, tmp_path / "three", ROWS, resume=start, ignore_data_skip=True)
    assert again[0] == unbroken[0]


def test_a_sampler_must_say_its_batches() -> None:
    with pytest.raises(TypeError, match="abstract"):
        PlannedBatchSampler(4, False)  # type: ignore[abstract]
