"""Every sampler over many datasets, worlds and batch sizes: what a run's batches keep, whatever its shape."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from ray_st.data.grouping import GroupByLabelBatchSampler, GroupByLengthBatchSampler
from ray_st.data.keys import Keys
from ray_st.data.mixing import ProportionalBatchSampler, RoundRobinBatchSampler, WeightedBatchSampler
from ray_st.data.samplers import (
    DefaultBatchSampler,
    NoDuplicatesBatchSampler,
    PlannedBatchSampler,
    RandomOrder,
)
from ray_st.data.window_sampler import KnownRows, WindowedBatchSampler
from ray_st.testing import SamplerCase, SamplerConformance
from ray_st.testing.sampler_conformance import (
    MakeSampler,
    batch_source,
    batches,
    every_dataset,
    every_size,
    mixed,
)
from ray_st.testing.sampler_rows import DATASETS


def default(rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
    return DefaultBatchSampler(RandomOrder(len(rows), seed), batch_size, drop_last)


def no_duplicates(
    rows: Keys, batch_size: int, drop_last: bool, seed: int, collisions: str = "keep"
) -> PlannedBatchSampler:
    return NoDuplicatesBatchSampler(rows, batch_size, drop_last, seed=seed, collisions=collisions)


def by_label(rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
    return GroupByLabelBatchSampler(rows, batch_size, drop_last, seed=seed)


def by_length(rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
    return GroupByLengthBatchSampler(rows, batch_size, drop_last, seed=seed)


def of_window(rows: Keys, seed: int, make: MakeSampler, batch_size: int) -> PlannedBatchSampler:
    return make(rows, batch_size, False, seed)


def windowed(make: MakeSampler) -> MakeSampler:
    """The same sampler run window by window: three blocks of 40 rows at a time."""

    def made(rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
        blocks = [min(40, len(rows) - start) for start in range(0, len(rows), 40)]
        inner = partial(of_window, make=make, batch_size=batch_size)
        return WindowedBatchSampler(KnownRows(rows, blocks), 3, inner, batch_size, drop_last, seed)

    return made


def streamed(make: MakeSampler) -> MakeSampler:
    """The same sampler in windows of 20 rows at first, then 40, then 50 at most, planned one by one."""

    def made(rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
        blocks = [min(10, len(rows) - start) for start in range(0, len(rows), 10)]
        inner = partial(of_window, make=make, batch_size=batch_size)
        return WindowedBatchSampler(
            KnownRows(rows, blocks), 5, inner, batch_size, drop_last, seed, streams=True
        )

    return made


CASES = {
    "default": SamplerCase(default),
    "no duplicates": SamplerCase(no_duplicates, unique_texts=True),
    "masked": SamplerCase(partial(no_duplicates, collisions="mask")),
    "dropped": SamplerCase(partial(no_duplicates, collisions="drop"), every_row=False, unique_texts=True),
    "by label": SamplerCase(by_label, every_row=False, takes_no_rows=False),
    "by length": SamplerCase(by_length),
    "default in windows": SamplerCase(windowed(default)),
    "no duplicates in windows": SamplerCase(windowed(no_duplicates), unique_texts=True),
    "by length in windows": SamplerCase(windowed(by_length)),
    "default streamed": SamplerCase(streamed(default)),
    "masked streamed": SamplerCase(streamed(partial(no_duplicates, collisions="mask"))),
    "dropped streamed": SamplerCase(
        streamed(partial(no_duplicates, collisions="drop")),
        every_row=False,
        unique_texts=True,
        keeps_steps=True,
    ),
    "by length streamed": SamplerCase(streamed(by_length)),
    "proportional": SamplerCase(mixed(ProportionalBatchSampler), unique_texts=True, mixes=True),
    "round robin": SamplerCase(mixed(RoundRobinBatchSampler), every_row=False, unique_texts=True, mixes=True),
    "weighted": SamplerCase(
        mixed(WeightedBatchSampler, (1.0, 2.0, 2.0, 3.0)), every_row=False, unique_texts=True, mixes=True
    ),
}


class TestEverySampler(SamplerConformance):
    @pytest.fixture(params=CASES.values(), ids=CASES.keys())
    def case(self, request: pytest.FixtureRequest) -> SamplerCase:
        return request.param


@every_dataset
@every_size
def test_rows_of_a_label_are_never_alone(dataset: str, size: int) -> None:
    planned, labels = batch_source(CASES["by label"], dataset, size), DATASETS[dataset].labels
    assert labels is not None
    for rows in batches(planned.plan(1)):
        assert (np.bincount(labels[rows])[labels[rows]] >= 2).all()


def test_a_seed_given_as_a_generator_is_that_seed() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = DATASETS["hot"]
    given = NoDuplicatesBatchSampler(rows, 12, generator=generator).plan()
    assert given.rows.tolist() == no_duplicates(rows, 12, False, 5).plan().rows.tolist()
