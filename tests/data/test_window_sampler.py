from __future__ import annotations

import numpy as np
import pytest

from ray_st.data.keys import Keys
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder
from ray_st.data.window_sampler import KnownRows, WindowedBatchSampler

BLOCKS = [100] * 9 + [37]
ROWS = sum(BLOCKS)


def keys(hot: float = 0.0) -> Keys:
    hashes = np.random.default_rng(0).integers(0, 2**63, (ROWS, 2)).astype(np.uint64)
    hashes[np.random.default_rng(1).random(ROWS) < hot, 0] = 7
    return Keys(hashes)


def windowed(window_blocks: int, hot: float = 0.0, seed: int = 5, **options: object) -> WindowedBatchSampler:
    def no_duplicates(some: Keys, seed: int) -> NoDuplicatesBatchSampler:
        return NoDuplicatesBatchSampler(some, 16, seed=seed)

    return WindowedBatchSampler(
        KnownRows(keys(hot), BLOCKS), window_blocks, no_duplicates, 16, seed=seed, **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("window_blocks", [1, 3, 10, 99])
@pytest.mark.parametrize("hot", [0.0, 0.04, 0.5])
def test_every_row_once_and_no_repeats_in_a_batch(window_blocks: int, hot: float) -> None:
    plan = windowed(window_blocks, hot).plan()
    assert sorted(plan.rows.tolist()) == list(range(ROWS))
    hashes = keys(hot).hashes
    for step in range(len(plan)):
        batch = hashes[plan.batch(step)]
        assert len(np.unique(batch)) == batch.size


def test_few_batches_are_not_full() -> None:
    sizes = windowed(3, hot=0.04).plan().sizes()
    assert (sizes[:-1] == 16).all()


def test_rows_that_fit_nowhere_are_not_tried_in_every_window() -> None:
    tried: list[int] = []

    def no_duplicates(some: Keys, seed: int) -> NoDuplicatesBatchSampler:
        tried.append(len(some))
        return NoDuplicatesBatchSampler(some, 16, seed=seed)

    sampler = WindowedBatchSampler(KnownRows(keys(hot=0.9), BLOCKS), 1, no_duplicates, 16, seed=5)
    assert sorted(sampler.plan().rows.tolist()) == list(range(ROWS))
    assert max(tried[:-1]) <= 200
    assert sum(tried) <= 3 * ROWS


def test_the_rows_of_a_step_lie_in_two_windows_at_most() -> None:
    plan, edges = windowed(3).plan(), np.cumsum(BLOCKS)
    blocks = [np.unique(np.searchsorted(edges, plan.batch(s), side="right")) for s in range(len(plan))]
    assert max(map(len, blocks)) <= 6
    assert np.median([len(found) for found in blocks]) <= 3


def test_blocks_and_rows_are_shuffled_by_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = windowed(2, seed=seed)
        sampler.set_epoch(epoch)
        return sampler.plan().rows.tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_any_sampler_runs_in_windows() -> None:
    def default(some: Keys, seed: int) -> DefaultBatchSampler:
        return DefaultBatchSampler(RandomOrder(len(some), seed), 16)

    sampler = WindowedBatchSampler(KnownRows(keys(), BLOCKS), 2, default, 16, drop_last=True)
    assert sampler.windows == 5
    assert (sampler.plan().sizes() == 16).all()
    assert len(sampler.plan()) == ROWS // 16
