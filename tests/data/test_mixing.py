from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ray_st.data.keys import Keys
from ray_st.data.mixing import (
    Concatenated,
    MixingBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    WeightedBatchSampler,
)
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder

SIZES, BATCHES = (3, 100, 40), (2, 16, 8)


def parts(sizes: tuple[int, ...] = SIZES) -> tuple[Concatenated, list[Any]]:
    keys = [Keys(np.arange(size, dtype=np.uint64)[:, None]) for size in sizes]
    return Concatenated(keys), [
        NoDuplicatesBatchSampler(k, b, seed=i) for i, (k, b) in enumerate(zip(keys, BATCHES, strict=False))
    ]


def sources(sampler: MixingBatchSampler, starts: np.ndarray) -> list[int]:
    plan = sampler.plan()
    found = [
        np.unique(np.searchsorted(starts, plan.batch(step), side="right") - 1) for step in range(len(plan))
    ]
    assert all(len(datasets) == 1 for datasets in found)
    return [int(datasets[0]) for datasets in found]


def test_proportional_uses_every_row_once_in_random_order_of_datasets() -> None:
    dataset, samplers = parts()
    mixed = ProportionalBatchSampler(dataset, samplers, seed=4)
    assert sorted(mixed.plan().rows.tolist()) == list(range(143))
    order = sources(mixed, dataset.starts)
    assert np.bincount(order).tolist() == [2, 7, 5]
    assert order != sorted(order)
    assert mixed.steps() == len(mixed) == 14


def test_round_robin_ends_with_the_smallest() -> None:
    dataset, samplers = parts()
    mixed = RoundRobinBatchSampler(dataset, samplers)
    assert sources(mixed, dataset.starts) == [0, 1, 2, 0, 1, 2]
    assert mixed.steps() == 6
    assert len(np.unique(mixed.plan().rows)) == len(mixed.plan().rows)


def test_weights_set_the_ratio_evenly_until_one_is_used_up() -> None:
    dataset = Concatenated([range(8), range(100), range(100)])
    samplers = [DefaultBatchSampler(RandomOrder(len(rows)), 2) for rows in dataset.datasets]
    order = sources(WeightedBatchSampler(dataset, samplers, [1, 2, 5]), dataset.starts)
    assert np.bincount(order).tolist() == [4, 8, 20]
    for start in range(0, 32, 8):
        assert np.bincount(order[start : start + 8]).tolist() == [1, 2, 5]
    equal = sources(WeightedBatchSampler(dataset, samplers, [1, 1, 1]), dataset.starts)
    assert equal == [0, 1, 2] * 4


@pytest.mark.parametrize("kind", [ProportionalBatchSampler, RoundRobinBatchSampler])
def test_an_epoch_is_a_function_of_seed_and_number(kind: type[MixingBatchSampler]) -> None:
    def epoch(number: int, seed: int = 0) -> list[int]:
        dataset, samplers = parts()
        mixed = kind(dataset, samplers, seed=seed)
        mixed.set_epoch(number)
        return mixed.plan().rows.tolist()

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)


def test_samplers_of_the_users_are_mixed_too() -> None:
    class Pairs:
        def __iter__(self) -> Any:
            return iter([[0, 1], [2, 3]])

    dataset = Concatenated([range(4), range(4)])
    mixed = RoundRobinBatchSampler(dataset, [Pairs(), Pairs()])
    assert [mixed.plan().batch(step).tolist() for step in range(4)] == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert mixed.steps() is None
    assert len(mixed) == 4


def test_what_it_cannot_mix() -> None:
    dataset, samplers = parts()
    with pytest.raises(ValueError, match="3 datasets and 2 samplers"):
        ProportionalBatchSampler(dataset, samplers[:2])
    with pytest.raises(ValueError, match="one positive number for each dataset"):
        WeightedBatchSampler(dataset, samplers, [1, 0, 2])
