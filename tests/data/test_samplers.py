from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from ray_st.data.keys import Keys, hash_texts, keys_of
from ray_st.data.samplers import (
    DefaultBatchSampler,
    NoDuplicatesBatchSampler,
    RandomOrder,
)

TEXTS = [f"text {i % 40}" for i in range(103)]


def keys() -> Keys:
    return Keys(np.stack([hash_texts(TEXTS), hash_texts(f"answer {i}" for i in range(103))], axis=1))


@pytest.mark.parametrize("wrong", [0, -1, 2.0, "8", True, None])
def test_batch_size_is_a_positive_integer(wrong: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be a positive integer; got"):
        DefaultBatchSampler(range(3), wrong)


def test_numpy_batch_size() -> None:
    assert list(DefaultBatchSampler(range(3), np.int64(2))) == [[0, 1], [2]]  # type: ignore[arg-type]


@pytest.mark.parametrize("drop_last", [False, True])
def test_default_is_torchs_batch_sampler_over_any_iterable(drop_last: bool) -> None:
    order = [4, 2, 0, 1, 3]
    expected = list(torch.utils.data.BatchSampler(order, 2, drop_last))
    assert list(DefaultBatchSampler(order, 2, drop_last)) == expected
    assert list(DefaultBatchSampler(iter(order), 2, drop_last)) == expected


def test_default_over_torchs_samplers() -> None:
    sampler = torch.utils.data.SubsetRandomSampler([5, 7, 9], torch.Generator().manual_seed(0))
    assert sorted(row for batch in DefaultBatchSampler(sampler, 2) for row in batch) == [5, 7, 9]


def test_default_without_a_length_has_no_steps_until_planned() -> None:
    class Odd:
        def __iter__(self) -> Iterator[int]:
            yield from (1, 3, 5)

    sampler = DefaultBatchSampler(Odd(), 2)
    assert sampler.steps() is None
    assert len(sampler) == 2


def test_random_order() -> None:
    order = RandomOrder(50, seed=1)
    assert sorted(order) == list(range(50))
    assert list(RandomOrder(5, shuffle=False)) == [0, 1, 2, 3, 4]
    assert len(order) == 50
    before = list(order)
    order.set_epoch(1)
    assert list(order) != before


def test_a_dataset_and_its_keys_give_the_same_batches() -> None:
    dataset = datasets.Dataset.from_dict({"q": TEXTS, "a": TEXTS[::-1], "label": [0] * len(TEXTS)})
    assert list(NoDuplicatesBatchSampler(dataset, 8)) == list(NoDuplicatesBatchSampler(keys_of(dataset), 8))


def test_labels_and_dataset_names_are_no_duplicates() -> None:
    dataset = datasets.Dataset.from_dict({"q": list("abcd"), "score": [1.0] * 4, "dataset_name": ["d"] * 4})
    assert len(list(NoDuplicatesBatchSampler(dataset, 4))) == 1
    dataset = datasets.Dataset.from_dict({"q": list("abcd"), "group": ["g"] * 4})
    assert len(list(NoDuplicatesBatchSampler(dataset, 4))) == 4
    assert len(list(NoDuplicatesBatchSampler(dataset, 4, valid_label_columns=["group"]))) == 1


def test_a_generator_stands_for_its_initial_seed() -> None:
    generator = torch.Generator().manual_seed(11)
    torch.rand(5, generator=generator)  # its state plays no part
    with_generator = NoDuplicatesBatchSampler(keys(), 10, generator=generator, seed=3)
    assert list(with_generator) == list(NoDuplicatesBatchSampler(keys(), 10, seed=11))


def test_drop_last_of_a_dataset_smaller_than_a_batch_leaves_nothing() -> None:
    assert list(NoDuplicatesBatchSampler(keys(), 1000, drop_last=True)) == []
    assert len(DefaultBatchSampler(range(3), 4, drop_last=True)) == 0
