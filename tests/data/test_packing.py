"""No value twice in a batch, every row once: against brute force over many shapes of duplication."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from ray_st.data.packing import _stable_argsort, find_repeats, pack_without_repeats
from ray_st.data.plan import Plan

Rows = npt.NDArray[np.uint64]


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def unique(rows: int, columns: int = 2) -> Rows:
    return rng().integers(0, 2**64 - 1, (rows, columns), dtype=np.uint64)


def hot() -> Rows:
    rows = unique(1000)
    rows[::2, 1] = 7
    return rows


def hot_in_either_column() -> Rows:
    rows = hot()
    rows[1::2, 0] = 7
    return rows


def zipf(columns: int = 2) -> Rows:
    return rng().zipf(1.3, (2000, columns)).clip(max=10**9).astype(np.uint64)


def grid(shared: bool) -> Rows:
    return np.array([(i, j + (0 if shared else 100)) for i in range(30) for j in range(30)], dtype=np.uint64)


CASES: dict[str, Callable[[], Rows]] = {
    "none": lambda: unique(0),
    "one": lambda: unique(1),
    "unique": lambda: unique(1000),
    "unique-1": lambda: unique(1000, 1),
    "half": hot,
    "half-either": hot_in_either_column,
    "same": lambda: np.full((100, 2), 5, dtype=np.uint64),
    "same-1": lambda: np.full((100, 1), 5, dtype=np.uint64),
    "zipf-1": lambda: zipf(1),
    "zipf-2": zipf,
    "zipf-5": lambda: zipf(5),
    "few-values": lambda: rng().integers(0, 20, (1000, 3)).astype(np.uint64),
    "grid": lambda: grid(False),
    "grid-shared": lambda: grid(True),
    "groups-of-5": lambda: np.stack([np.arange(1000) // 5, np.arange(1000) + 10**6], 1).astype(np.uint64),
    "row-with-itself": lambda: np.repeat(np.arange(500, dtype=np.uint64), 2).reshape(500, 2),
    "no-columns": lambda: unique(50, 0),
}


def pack(hashes: Rows, batch_size: int, seed: int = 0) -> Plan:
    return pack_without_repeats(find_repeats(hashes), batch_size, np.random.default_rng(seed))


def collides(batch: Rows) -> bool:
    """Whether two rows of a batch share a value, in any columns."""
    seen: set[int] = set()
    for row in batch.tolist():
        if seen & set(row):
            return True
        seen |= set(row)
    return False


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64, 5000])
@pytest.mark.parametrize("case", CASES)
def test_each_row_once_no_value_twice_full_batches_first(case: str, batch_size: int) -> None:
    hashes = CASES[case]()
    plan = pack(hashes, batch_size)
    assert sorted(plan.rows.tolist()) == list(range(len(hashes)))
    sizes = plan.sizes()
    assert len(plan) == 0 or 1 <= sizes.min() <= sizes.max() <= batch_size
    full = sizes == batch_size
    assert full[: full.sum()].all()
    assert not any(collides(hashes[plan.batch(step)]) for step in range(len(plan)))


@pytest.mark.parametrize(
    "case", ["unique", "half", "same", "zipf-1", "groups-of-5", "row-with-itself", "no-columns"]
)
def test_no_more_batches_than_needed(case: str) -> None:
    hashes = CASES[case]()
    counts = [len(np.unique(np.nonzero(hashes == value)[0])) for value in np.unique(hashes)]
    assert len(pack(hashes, 10)) == max(-(-len(hashes) // 10), *counts, 0)


def test_not_many_more_batches_than_needed_where_all_rows_conflict() -> None:
    assert len(pack(grid(False), 10)) <= 1.1 * 90
    assert len(pack(grid(False), 30)) <= 2 * 30


def test_an_order_is_drawn_for_each_seed_and_is_the_same_for_the_same() -> None:
    hashes = zipf()
    first, again, other = (pack(hashes, 16, seed) for seed in (3, 3, 4))
    assert first.rows.tolist() == again.rows.tolist()
    assert first.starts.tolist() == again.starts.tolist()
    assert first.rows.tolist() != other.rows.tolist()


def test_golden_plan() -> None:
    """The order of samples of a given seed is part of what users rely on; changing it needs a word in the changelog."""
    hashes = np.array(
        [[1, 10], [2, 11], [1, 12], [3, 13], [4, 10], [5, 14], [6, 15], [7, 16]], dtype=np.uint64
    )
    plan = pack(hashes, 3, seed=7)
    assert [plan.batch(step).tolist() for step in range(len(plan))] == GOLDEN


GOLDEN = [[1, 2, 7], [4, 6, 3], [5, 0]]


def test_repeats_of_rows_and_columns() -> None:
    hashes = np.array([[1, 1, 2], [3, 4, 2], [5, 6, 5], [7, 7, 7], [8, 9, 3]], dtype=np.uint64)
    repeats = find_repeats(hashes)
    assert repeats.rows.tolist() == [0, 1, 4]
    assert repeats.free.tolist() == [2, 3]  # a value twice in the same row is no repeat
    assert repeats.counts.tolist() == [2, 2]
    assert repeats.values.tolist() == [[-1, -1, 0], [1, -1, 0], [-1, -1, 1]]


def test_value_zero_and_the_greatest_hash_are_values_like_others() -> None:
    top = 2**64 - 1
    hashes = np.array([[0, top], [top, 0], [0, 0], [1, top]], dtype=np.uint64)
    plan = pack(hashes, 4)
    assert not any(collides(hashes[plan.batch(step)]) for step in range(len(plan)))
    assert find_repeats(hashes).counts.tolist() == [3, 3]


@pytest.mark.parametrize("top", [1, 1000, 2**40, 2**62])
def test_stable_argsort_is_numpys(top: int) -> None:
    numbers = rng().integers(0, top, 3000)
    assert (_stable_argsort(numbers) == np.argsort(numbers, kind="stable")).all()
    assert len(_stable_argsort(numbers[:0])) == 0
