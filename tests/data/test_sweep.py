"""Every sampler over many datasets, worlds and batch sizes: what a run's batches keep, whatever its shape."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from ray_st.data.columns import ColumnSpec
from ray_st.data.feed import Planner
from ray_st.data.grouping import GroupByLabelBatchSampler, GroupByLengthBatchSampler
from ray_st.data.keys import Keys
from ray_st.data.mixing import (
    Concatenated,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    WeightedBatchSampler,
)
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder
from ray_st.data.windows import WindowedBatchSampler
from ray_st.training.batch import BATCH, SHARES, StepDataset
from ray_st.world import World

WORLDS = (1, 2, 3, 4, 8)
BATCH_SIZES = (4, 12, 16, 64)
EPOCHS = 3


def keys(rows: int, salt: int = 0) -> Keys:
    """Unique texts in two columns; six labels of like size."""
    rng = np.random.default_rng([rows, salt])
    hashes = rng.integers(2**32, 2**63, (rows, 2), dtype=np.uint64)
    return Keys(hashes, rng.integers(1, 40, rows), rng.integers(0, 6, rows))


def with_hot_duplicates(rows: int) -> Keys:
    """A third of all rows share anchors by Zipf's law, and some of these are positives elsewhere."""
    made, rng = keys(rows), np.random.default_rng(1)
    hot = rng.random(rows) < 0.33
    made.hashes[hot, 0] = rng.zipf(1.5, hot.sum()).clip(max=50)
    made.hashes[rng.random(rows) < 0.05, 1] = 1
    return made


def with_a_value_in_half_of_all_rows(rows: int) -> Keys:
    made = keys(rows)
    made.hashes[::2, 1] = 7
    return made


def with_a_label_far_larger_than_the_rest(rows: int) -> Keys:
    made = keys(rows)
    assert made.labels is not None
    made.labels[: rows * 9 // 10] = 0
    return made


def with_several_positives_an_anchor(rows: int) -> Keys:
    """Every row shares its anchor with two others, as in NLI: no row is free to go anywhere."""
    made = keys(rows)
    made.hashes[:, 0] = np.arange(rows) // 3
    return made


def in_shared_memory(value: Any) -> Any:
    """What a process gets that takes a value from Ray's object store: its arrays are read-only, empty ones too."""
    buffers: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[buffer.raw().tobytes() for buffer in buffers])


DATASETS: dict[str, Keys] = {
    "unique": keys(203),
    "shared": with_several_positives_an_anchor(150),
    "hot": with_hot_duplicates(301),
    "half": with_a_value_in_half_of_all_rows(150),
    "large label": with_a_label_far_larger_than_the_rest(210),
    "tiny": Keys(np.arange(10, dtype=np.uint64).reshape(5, 2), np.arange(1, 6), np.array([0, 0, 1, 1, 2])),
}

Make = Callable[[Keys, int, int], Any]
"""Makes a sampler from keys, batch size and seed."""

SAMPLERS: dict[str, Make] = {
    "default": lambda rows, size, seed: DefaultBatchSampler(RandomOrder(len(rows), seed), size),
    "no duplicates": lambda rows, size, seed: NoDuplicatesBatchSampler(rows, size, seed=seed),
    "masked": lambda rows, size, seed: NoDuplicatesBatchSampler(rows, size, seed=seed, collisions="mask"),
    "dropped": lambda rows, size, seed: NoDuplicatesBatchSampler(rows, size, seed=seed, collisions="drop"),
    "by label": lambda rows, size, seed: GroupByLabelBatchSampler(rows, size, seed=seed),
    "by length": lambda rows, size, seed: GroupByLengthBatchSampler(rows, size, seed=seed),
}


def windowed(make: Make) -> Make:
    """The same sampler run window by window: three blocks of 40 rows at a time."""

    def made(rows: Keys, size: int, seed: int) -> Any:
        blocks = [min(40, len(rows) - start) for start in range(0, len(rows), 40)]
        return WindowedBatchSampler(rows, blocks, 3, lambda some, s: make(some, size, s), size, seed=seed)

    return made


def mixed(kind: Any, *options: Any) -> Make:
    """Three datasets of other sizes and one of four rows, in one of the orders of several datasets."""

    def made(rows: Keys, size: int, seed: int) -> Any:
        parts = split(rows)
        samplers = [NoDuplicatesBatchSampler(part, size, seed=seed + n) for n, part in enumerate(parts)]
        return kind(Concatenated(parts), samplers, *options, seed=seed)

    return made


def edges(rows: int) -> list[int]:
    return [4, rows // 4, rows // 2, rows] if rows > 16 else [1, 2, 3, rows]


def split(rows: Keys) -> list[Keys]:
    return [rows.take(part) for part in np.split(np.arange(len(rows)), edges(len(rows))[:-1])]


MIXTURES: dict[str, Make] = {
    "proportional": mixed(ProportionalBatchSampler),
    "round robin": mixed(RoundRobinBatchSampler),
    "weighted": mixed(WeightedBatchSampler, (1.0, 2.0, 2.0, 3.0)),
}
WINDOWED = {
    f"{name} in windows": windowed(SAMPLERS[name]) for name in ("default", "no duplicates", "by length")
}
ALL = {**SAMPLERS, **WINDOWED, **MIXTURES}

UNIQUE_TEXTS = ("no duplicates", "no duplicates in windows", "dropped", *MIXTURES)
USES_ALL = ("default", "no duplicates", "masked", "by length", *WINDOWED, "proportional")


@dataclass(frozen=True)
class Rows:
    """A window whose rows are nothing but their numbers."""

    count: int
    columns: ColumnSpec = field(default_factory=lambda: ColumnSpec(("a",)))

    def __len__(self) -> int:
        return self.count


class PlannedFeed:
    """A feed over a planner, of one dataset or of the parts of a mixture."""

    def __init__(self, planner: Planner, sizes: Mapping[str, int]) -> None:
        self.names, self.windows = list(sizes), [Rows(size) for size in sizes.values()]
        self.steps, self.rows, self.plan = planner.steps, sum(sizes.values()), planner.plan

    def ahead(self, source: int, rows: Indices) -> None:
        assert 0 <= rows.min(initial=0) <= rows.max(initial=0) < len(self.windows[source])


def collate(window: Rows, rows: Indices, dataset: str) -> dict[str, Any]:
    return {"source": dataset, "rows": rows}


def feed(sampler: str, dataset: str, size: int) -> PlannedFeed:
    rows = DATASETS[dataset]
    sizes = {"": len(rows)}
    if sampler in MIXTURES:
        sizes = {str(number): len(part) for number, part in enumerate(split(rows))}
    made = ALL[sampler](in_shared_memory(rows), size, 5)
    return PlannedFeed(in_shared_memory(Planner(made, EPOCHS)), sizes)


def batches(plan: Plan) -> list[list[int]]:
    return [plan.batch(step).tolist() for step in range(len(plan))]


def steps_of(rank: StepDataset, steps: int, epoch: int = 0) -> list[Any]:
    return [rank[epoch, step] for step in range(steps)]


every = pytest.mark.parametrize(
    ("sampler", "dataset"), [(sampler, dataset) for sampler in ALL for dataset in DATASETS]
)
sized = pytest.mark.parametrize("size", BATCH_SIZES)


@every
@sized
def test_rows_once_an_epoch_and_the_same_number_of_steps_in_each(
    sampler: str, dataset: str, size: int
) -> None:
    planned, rows = feed(sampler, dataset, size), len(DATASETS[dataset])
    orders = []
    for epoch in range(EPOCHS):
        plan = planned.plan(epoch)
        assert len(plan) == planned.steps
        assert 1 <= plan.sizes().min() <= plan.sizes().max() <= size
        assert len(np.unique(plan.rows)) == len(plan.rows)
        assert sampler not in USES_ALL or len(plan.rows) == rows
        orders.append(plan.rows.tolist())
    assert rows < 10 or orders[0] != orders[1] != orders[2] != orders[0]


@every
@sized
def test_the_ranks_of_every_world_make_up_the_same_batches(sampler: str, dataset: str, size: int) -> None:
    planned = feed(sampler, dataset, size)
    plan = planned.plan(1)
    ends = [0, *edges(len(DATASETS[dataset]))] if sampler in MIXTURES else [0, len(DATASETS[dataset])]
    hashes, labels = DATASETS[dataset].hashes, DATASETS[dataset].labels
    for world in WORLDS:
        for step, whole in enumerate(batches(plan)):
            cuts = [plan.cut(step, World(rank, world)) for rank in range(world)]
            union = np.concatenate(cuts)
            assert union.tolist() == whole
            assert np.ptp([len(cut) for cut in cuts]) <= 1
            assert len({int(np.searchsorted(ends, row, side="right")) for row in whole}) == 1
            if sampler in UNIQUE_TEXTS:
                values = [value for row in hashes[union].tolist() for value in set(row)]
                assert len(values) == len(set(values))
            if sampler == "by label" and planned.steps == len(plan):
                assert labels is not None
                assert (np.bincount(labels[union])[labels[union]] >= 2).all()


@every
@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_gets_its_rows_at_every_step(sampler: str, dataset: str, world: int) -> None:
    """Through what a loader reads: ranks agree on dataset and shares, their rows are the batch's, none takes longer."""
    planned = feed(sampler, dataset, 12)
    ranks = [StepDataset(planned, World(rank, world), collate) for rank in range(world)]  # type: ignore[arg-type]
    starts = dict(zip(planned.names, np.cumsum([0, *map(len, planned.windows)]).tolist(), strict=False))
    expected = batches(planned.plan(0))
    for step, seen in enumerate(zip(*(steps_of(rank, planned.steps) for rank in ranks), strict=True)):
        assert len({inputs["source"] for inputs in seen}) == 1
        start, shares = starts[seen[0]["source"]], seen[0][SHARES]
        assert all(inputs[SHARES] == shares for inputs in seen)
        assert all(inputs[BATCH].tolist() == expected[step] for inputs in seen)
        # A rank without a share holds a filler row, which counts nothing.
        used = [
            row + start for inputs, share in zip(seen, shares, strict=True) for row in inputs["rows"][:share]
        ]
        assert used == expected[step]
        assert [len(inputs["rows"]) for inputs in seen] == [max(share, 1) for share in shares]


@every
def test_starting_anew_at_any_step_gives_the_rest_of_an_unbroken_run(sampler: str, dataset: str) -> None:
    unbroken = feed(sampler, dataset, 12)
    for epoch in range(2):
        before = [
            [
                inputs["rows"].tolist()
                for inputs in steps_of(StepDataset(unbroken, world, collate), unbroken.steps, epoch)
            ]  # type: ignore[arg-type]
            for world in (World(0, 2), World(1, 2), World(2, 3))
        ]
        restored = feed(sampler, dataset, 12)
        for step in range(unbroken.steps):
            for world, rows in zip((World(0, 2), World(1, 2), World(2, 3)), before, strict=True):
                fresh = StepDataset(restored, world, collate)  # type: ignore[arg-type]
                assert fresh[epoch, step]["rows"].tolist() == rows[step]


def test_a_seed_given_as_a_generator_is_that_seed() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = DATASETS["hot"]
    given = NoDuplicatesBatchSampler(rows, 12, generator=generator).plan()
    assert given.rows.tolist() == SAMPLERS["no duplicates"](rows, 12, 5).plan().rows.tolist()


@pytest.mark.parametrize("sampler", [name for name in ALL if name != "by label"])
def test_no_rows_make_no_batches(sampler: str) -> None:
    """As in a window whose rows are all left out."""
    nothing = np.zeros(0, dtype=np.int64)
    rows = Keys(np.zeros((0, 2), dtype=np.uint64), nothing, nothing)
    made = in_shared_memory(ALL[sampler](in_shared_memory(rows), 4, 0))
    assert len(made) == len(made.plan()) == len(made.plan().rows) == 0
