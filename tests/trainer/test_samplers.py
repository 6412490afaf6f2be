"""Samplers of the user's own, and going on without skipping, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import ray_st
from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.data import segments
from ray_st.data.mixing import Concatenated, MultiDatasetDefaultBatchSampler, RoundRobinBatchSampler
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, PlannedBatchSampler
from ray_st.training.checkpoint.resume import differences
from ray_st.training.checkpoint.sample_log import SampleLog, read_ledger
from ray_st.training.data.local_source import local_context
from ray_st.training_args import BatchSamplers

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
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "save_strategy": "no"}
    options |= {"report_to": "none", **arguments}
    trainer = kind(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder), **options),
        train_dataset=data,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    ledger = SampleLog(folder / "ledger.jsonl")
    place = local_context(trainer.data.train_specs(1), folder, sample_log=ledger)
    trainer.spec().rebuild(place).train(resume_from_checkpoint=resume)
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


# ---- subclasses of the documented bases, as scripts of the peer write them ----


def halves(base: Any) -> Any:
    class Halves(base):
        """Batches of shuffled rows whose first text is long, then of the others."""

        def __init__(self, dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> None:
            super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **options)
            self.lengths = [len(text) for text in dataset[dataset.column_names[0]]]

        def __iter__(self) -> Any:
            if self.generator and self.seed is not None:
                self.generator.manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(self.lengths), generator=self.generator).tolist()
            order.sort(key=lambda row: self.lengths[row] < 6)
            for start in range(0, len(order), self.batch_size):
                yield order[start : start + self.batch_size]

        def __len__(self) -> int:
            return -(-len(self.lengths) // self.batch_size)

    return Halves


def last_first(base: Any) -> Any:
    class LastFirst(base):
        """All batches of the last dataset, then those of the one before."""

        def __iter__(self) -> Any:
            sizes = self.dataset.cumulative_sizes
            for place in reversed(range(len(sizes))):
                start = sizes[place - 1] if place else 0
                yield from ([row + start for row in batch] for batch in self.batch_samplers[place])

        def __len__(self) -> int:
            return sum(len(sampler) for sampler in self.batch_samplers)

    return LastFirst


def drawn(sampler: Any) -> list[list[list[int]]]:
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append([list(map(int, batch)) for batch in sampler])
    return epochs


def test_subclasses_draw_what_they_draw_at_the_peer(peer: Any) -> None:
    rows = Dataset.from_dict(ROWS)

    def both(bases: Any) -> Any:
        made = halves(bases.DefaultBatchSampler)
        options = {"drop_last": False, "valid_label_columns": ["label"]}
        one, other = (
            made(rows, 5, generator=torch.Generator().manual_seed(3), seed=3, **options) for _ in range(2)
        )
        mixed = last_first(bases.MultiDatasetDefaultBatchSampler)
        mixture = mixed(torch.utils.data.ConcatDataset([rows, rows]), [one, other], seed=3)
        return drawn(one), len(one), drawn(mixture), len(mixture)

    assert both(ray_st) == both(peer)


def test_a_subclass_in_the_arguments(tiny_model: Any, tmp_path: Path) -> None:
    rows = Dataset.from_dict(ROWS)
    kind = halves(DefaultBatchSampler)
    options = {"batch_sampler": kind, "num_train_epochs": 2, "seed": 5}
    batches = used(tiny_model, tmp_path, rows, **options)
    sampler = kind(rows, 4, False, generator=torch.Generator().manual_seed(5), seed=5)
    first, second, _ = drawn(sampler)
    assert batches == [*first, *second]


def test_a_subclass_over_several_datasets(tiny_model: Any, tmp_path: Path) -> None:
    data = {"one": ROWS, "two": ROWS}
    options = {"multi_dataset_batch_sampler": last_first(MultiDatasetDefaultBatchSampler)}
    batches = used(tiny_model, tmp_path, data, **options)
    assert [min(batch) >= 12 for batch in batches] == [True] * 3 + [False] * 3
    assert sorted(row for batch in batches for row in batch) == list(range(24))


def test_the_base_of_mixtures_makes_no_batches() -> None:
    with pytest.raises(TypeError, match="__iter__"):
        MultiDatasetDefaultBatchSampler(Concatenated([range(3)]), [[[0]]])  # type: ignore[abstract]


@pytest.mark.parametrize("kind", ["no_duplicates", BatchSamplers.NO_DUPLICATES_HASHED])
def test_hashed_or_not_it_is_the_same_sampler(kind: Any, tiny_model: Any, tmp_path: Path) -> None:
    data = {"a": ["x", "x", "y", "z"] * 3, "b": [f"two {i}" for i in range(12)]}
    assert used(tiny_model, tmp_path, data, batch_sampler=kind) == used(
        tiny_model, tmp_path / "other", data, batch_sampler="no_duplicates_hashed"
    )


def test_hashes_may_be_asked_for() -> None:
    rows = Dataset.from_dict(ROWS)
    options = {"precompute_hashes": True, "precompute_num_proc": 2, "precompute_batch_size": 10}
    assert drawn(NoDuplicatesBatchSampler(rows, 4, **options)) == drawn(NoDuplicatesBatchSampler(rows, 4))


# ---- a run that goes on must not notice later that its order is another ----

PAIR = {"one": Dataset.from_dict(ROWS), "two": Dataset.from_dict(ROWS)}


def facts(
    model: Any, folder: Path, data: Any, kind: Any = SentenceTransformerTrainer, **arguments: Any
) -> Any:
    """What a checkpoint would note."""
    options = {"per_device_train_batch_size": 4, "save_strategy": "no", **arguments}
    trainer = kind(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder), **options),
        train_dataset=data,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    return json.loads(json.dumps(local_context(trainer.data.train_specs(1), folder).facts))


def mixed(dataset: Any, batch_samplers: Any, **options: Any) -> Any:
    return RoundRobinBatchSampler(dataset, batch_samplers)


WITH_A_FAULT = Dataset.from_dict({"a": [*ROWS["a"][:-1], None], "b": ROWS["b"]})


@pytest.mark.parametrize(
    ("then", "now", "named"),
    [
        (
            {},
            {"batch_sampler": "no_duplicates"},
            ["batch sampler: batch_sampler then, no_duplicates, collisions=keep now"],
        ),
        (
            {},
            {"batch_sampler": Backwards},
            ["batch sampler: batch_sampler then, tests.trainer.test_samplers.Backwards now"],
        ),
        (
            {},
            {"kind": Overridden},
            ["batch sampler: batch_sampler then, tests.trainer.test_samplers.Overridden.get_batch_"],
        ),
        (
            {},
            {"group_by_length": True},
            ["batch sampler: batch_sampler then, batch_sampler, grouped by length now"],
        ),
        (
            {"batch_sampler": "no_duplicates"},
            {"batch_sampler": "no_duplicates", "collisions": "drop"},
            ["batch sampler: no_duplicates, collisions=keep then, no_duplicates, collisions=drop now"],
        ),
        ({}, {"gradient_accumulation_steps": 2}, ["gradient_accumulation_steps: 1 then, 2 now"]),
        ({}, {"seed": 7}, ["seed: 42 then, 7 now"]),
        ({}, {"data_seed": 7}, ["seed: 42 then, 7 now"]),
        ({}, {"dataloader_drop_last": True}, ["drop_last: False then, True now"]),
        (
            {},
            {"per_device_train_batch_size": 3},
            ["global batch size: 4 then, 3 now", "steps of an epoch: 3 then, 4 now"],
        ),
        ({}, {"prompts": "query: "}, ["prompts: {} then, {'a': 'query: ', 'b': 'query: '} now"]),
        (
            {},
            {"data": WITH_A_FAULT, "bad_rows": "skip"},
            ["texts and labels: ", "rows left out: 0 then, 1 now"],
        ),
        (
            {"data": PAIR},
            {"data": dict(reversed(PAIR.items()))},
            ["datasets, in order: ['one', 'two'] then, ['two', 'one'] now"],
        ),
        (
            {"data": PAIR},
            {"data": PAIR, "multi_dataset_batch_sampler": "round_robin"},
            ["sampler of several datasets: proportional then, round_robin now"],
        ),
        (
            {"data": PAIR, "multi_dataset_batch_sampler": mixed},
            {"data": PAIR, "dataset_weights": {"one": 2, "two": 1}},
            [
                'sampler of several datasets: tests.trainer.test_samplers.mixed then, weighted {"one": 2, "two": 1} now',
                "steps of an epoch: 6 then, 4 now",
            ],
        ),
    ],
)
def test_what_the_order_depends_on_is_noted_and_named(
    tiny_model: Any, tmp_path: Path, then: Any, now: Any, named: list[str]
) -> None:
    before, after = ({"data": Dataset.from_dict(ROWS), **given} for given in (then, now))
    found = differences(facts(tiny_model, tmp_path, **before), facts(tiny_model, tmp_path, **after))
    assert len(found) == len(named), found
    assert all(expected in line for expected, line in zip(named, found, strict=True)), found


def test_the_size_of_windows_is_noted(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "ROWS", 2)
    data = Dataset.from_dict(ROWS)
    whole, cut = (facts(tiny_model, tmp_path, data=data, window_rows=rows) for rows in (None, 4))
    assert "segments of a window: None then, 2 now" in differences(whole, cut)


def test_a_sampler_whose_code_was_edited_is_noticed(
    tiny_model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    data = Dataset.from_dict(ROWS)
    then = facts(tiny_model, tmp_path, data, batch_sampler=Backwards)
    assert facts(tiny_model, tmp_path, data, batch_sampler=Backwards) == then
    assert facts(tiny_model, tmp_path, data, batch_sampler=Backwards, num_train_epochs=5) == then
    monkeypatch.setattr(
        Backwards, "__iter__", lambda self: iter([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    )
    now = facts(tiny_model, tmp_path, data, batch_sampler=Backwards)
    assert "code of a sampler" in differences(then, now)[0]
