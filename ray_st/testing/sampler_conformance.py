"""The contract of every batch sampler, for any shape of a run, as one class of tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import pytest

from ray_st.data.batch_source import BatchSource, Planner
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.keys import Keys
from ray_st.data.mixing import Concatenated, MultiDatasetDefaultBatchSampler
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import NoDuplicatesBatchSampler, PlannedBatchSampler, known_steps
from ray_st.testing.sampler_rows import DATASETS, NO_ROWS, SMALL, edges, split
from ray_st.training.data.step_loader import BATCH, SHARES, Collate, StepDataset
from ray_st.world import World

WORLDS = (1, 2, 3, 4, 8)
BATCH_SIZES = (4, 12, 16, 64)
EPOCHS = 3

DrawSmall: TypeAlias = Callable[..., PlannedBatchSampler]
"""Makes a sampler of a few rows; takes ``drop_last`` and ``seed``."""

T = TypeVar("T")


class MakeSampler(Protocol):
    """Makes a batch sampler."""

    def __call__(self, rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
        """A sampler of rows; :func:`ray_st.testing.sampler_rows.as_dataset` makes a dataset of them."""


@dataclass(frozen=True)
class SamplerCase:
    """A batch sampler under test, and its guarantees beyond those of every sampler.

    Args:
        make: Makes the sampler, :func:`mixed` that of several datasets.
        every_row: Whether each row is in a batch of every epoch.
        unique_texts: Whether no text occurs twice in a batch.
        shuffles: Whether epochs and seeds differ in their order.
        mixes: Whether the rows are those of several datasets, and a batch those of one.
        takes_no_rows: Whether a dataset without rows makes no batches; otherwise it is an error.
        keeps_steps: Whether full batches may come twice with ``drop_last``, in place of those that skipped
            rows would have made.
    """

    make: MakeSampler
    every_row: bool = True
    unique_texts: bool = False
    shuffles: bool = True
    mixes: bool = False
    takes_no_rows: bool = True
    keeps_steps: bool = False


def mixed(kind: Callable[..., MultiDatasetDefaultBatchSampler], *options: Any) -> MakeSampler:
    """Makes a sampler of several datasets: three of other sizes and one of four rows, without duplicates.

    Args:
        kind: The sampler's class, called with the datasets, a sampler for each, the options and the seed.
        options: Its further arguments.
    """

    def make(rows: Keys, batch_size: int, drop_last: bool, seed: int) -> PlannedBatchSampler:
        parts = split(rows)
        samplers = [
            NoDuplicatesBatchSampler(part, batch_size, drop_last, seed=seed + number)
            for number, part in enumerate(parts)
        ]
        return kind(Concatenated(parts), samplers, *options, seed=seed)

    return make


every_dataset = pytest.mark.parametrize("dataset", DATASETS)
every_size = pytest.mark.parametrize("size", BATCH_SIZES)
every_world = pytest.mark.parametrize("world", WORLDS)


class SamplerConformance:
    """Tests of a batch sampler; a subclass defines the fixture ``case``.

    The order is a function of seed and epoch; workers of any number make up the same batches; a resumed run
    sees exactly the rows of an uninterrupted one.
    """

    @pytest.fixture
    def case(self) -> SamplerCase:
        """The sampler under test."""
        raise NotImplementedError("define the fixture `case`: it returns a ray_st.testing.SamplerCase")

    @pytest.fixture(params=SMALL.values(), ids=list(SMALL))
    def draw(self, case: SamplerCase, request: pytest.FixtureRequest) -> DrawSmall:
        """Makes the sampler of 103 rows in batches of ten."""

        def make(drop_last: bool = False, seed: int = 0) -> PlannedBatchSampler:
            return case.make(request.param, 10, drop_last, seed)

        return make

    def test_every_row_is_in_one_batch(self, case: SamplerCase, draw: DrawSmall) -> None:
        """Batches are lists of integers, of no more rows than asked for, each row in one batch at most."""
        drawn = list(draw())
        rows = sorted(row for batch in drawn for row in batch)
        assert len(set(rows)) == len(rows)
        assert rows == list(range(103)) or not case.every_row
        assert all(type(row) is int for row in drawn[0])
        assert max(map(len, drawn)) == 10

    def test_iterating_planning_and_counting_agree(self, draw: DrawSmall) -> None:
        """``len()``, ``plan()`` and iteration agree."""
        for drop_last in (False, True):
            sampler = draw(drop_last)
            plan = sampler.plan()
            assert list(sampler) == batches(plan)
            assert len(sampler) == len(plan)
            assert known_steps(sampler) in (None, len(plan))

    def test_drop_last_leaves_the_full_batches(self, case: SamplerCase, draw: DrawSmall) -> None:
        """With ``drop_last`` the same batches are drawn, but for those that are not full."""
        drawn = list(draw(True))
        assert {len(batch) for batch in drawn} <= {10}
        same = drawn == [batch for batch in draw() if len(batch) == 10]
        assert same or case.mixes or case.keeps_steps

    def test_order_is_a_function_of_seed_and_epoch(self, case: SamplerCase, draw: DrawSmall) -> None:
        """Nothing else influences it, not even which epoch was drawn before."""
        sampler = draw(seed=5)
        first = list(sampler)
        assert list(sampler) == first
        sampler.set_epoch(1)
        second = list(sampler)
        sampler.set_epoch(0)
        assert list(sampler) == first
        assert list(draw(seed=5)) == first
        if case.shuffles:
            assert second != first
            assert list(draw(seed=6)) != first

    def test_negative_seeds_are_seeds(self, case: SamplerCase, draw: DrawSmall) -> None:
        """Any integer is a valid seed."""
        drawn = list(draw(seed=-1))
        assert drawn != list(draw(seed=1)) or not case.shuffles

    def test_can_be_pickled(self, draw: DrawSmall) -> None:
        """A pickled sampler draws the same batches."""
        sampler = draw()
        sampler.set_epoch(3)
        assert list(pickle.loads(pickle.dumps(sampler))) == list(sampler)

    @every_dataset
    @every_size
    def test_rows_once_an_epoch_and_the_same_number_of_steps_in_each(
        self, case: SamplerCase, dataset: str, size: int
    ) -> None:
        """As training plans it: transformers derives epochs from one number of steps."""
        planned, rows = batch_source(case, dataset, size), len(DATASETS[dataset])
        orders = []
        for epoch in range(EPOCHS):
            plan = planned.plan(epoch)
            assert len(plan) == planned.steps
            assert 1 <= plan.sizes().min() <= plan.sizes().max() <= size
            assert len(np.unique(plan.rows)) == len(plan.rows)
            assert not case.every_row or len(plan.rows) == rows
            orders.append(plan.rows.tolist())
        assert rows < 10 or not case.shuffles or orders[0] != orders[1] != orders[2] != orders[0]

    @every_dataset
    @every_size
    def test_the_ranks_of_every_world_make_up_the_same_batches(
        self, case: SamplerCase, dataset: str, size: int
    ) -> None:
        """Workers' shares differ by one row at most; together they are the whole batch."""
        plan, rows = batch_source(case, dataset, size).plan(1), len(DATASETS[dataset])
        ends = [0, *edges(rows)] if case.mixes else [0, rows]
        for world in WORLDS:
            for step, whole in enumerate(batches(plan)):
                cuts = [plan.cut(step, World(rank, world)) for rank in range(world)]
                union = np.concatenate(cuts)
                assert union.tolist() == whole
                assert np.ptp([len(cut) for cut in cuts]) <= 1
                assert len({int(np.searchsorted(ends, row, side="right")) for row in whole}) == 1
                if case.unique_texts:
                    hashes = DATASETS[dataset].hashes[union].tolist()
                    values = [value for row in hashes for value in set(row)]
                    assert len(values) == len(set(values))

    @every_dataset
    @every_world
    def test_every_rank_gets_its_rows_at_every_step(
        self, case: SamplerCase, dataset: str, world: int
    ) -> None:
        """As a loader reads it: ranks agree on dataset and shares, and their rows are the batch's."""
        planned = batch_source(case, dataset, 12)
        ranks = [rank_of(planned, World(rank, world)) for rank in range(world)]
        starts = dict(zip(planned.names, np.cumsum([0, *map(len, planned.windows)]).tolist(), strict=False))
        expected = batches(planned.plan(0))
        for step, seen in enumerate(zip(*(steps_of(rank, planned.steps) for rank in ranks), strict=True)):
            assert len({inputs["source"] for inputs in seen}) == 1
            start, shares = starts[seen[0]["source"]], seen[0][SHARES]
            assert all(inputs[SHARES] == shares for inputs in seen)
            assert all(inputs[BATCH].tolist() == expected[step] for inputs in seen)
            # A rank without a share holds a filler row, which counts nothing.
            used = [
                row + start
                for inputs, share in zip(seen, shares, strict=True)
                for row in inputs["rows"][:share]
            ]
            assert used == expected[step]
            assert [len(inputs["rows"]) for inputs in seen] == [max(share, 1) for share in shares]

    @every_dataset
    def test_resuming_at_any_step_gives_the_rest_of_an_uninterrupted_run(
        self, case: SamplerCase, dataset: str
    ) -> None:
        """A run that resumes from a checkpoint sees the same rows as an uninterrupted one."""
        unbroken, restored = batch_source(case, dataset, 12), batch_source(case, dataset, 12)
        worlds = (World(0, 2), World(1, 2), World(2, 3))
        for epoch in range(2):
            before = [
                [
                    inputs["rows"].tolist()
                    for inputs in steps_of(rank_of(unbroken, world), unbroken.steps, epoch)
                ]
                for world in worlds
            ]
            for step in range(unbroken.steps):
                for world, rows in zip(worlds, before, strict=True):
                    fresh = rank_of(restored, world)
                    assert fresh[epoch, step]["rows"].tolist() == rows[step]

    def test_no_rows_make_no_batches(self, case: SamplerCase) -> None:
        """As in a window whose rows are all dropped."""
        if not case.takes_no_rows:
            with pytest.raises(ValueError, match="needs"):
                case.make(NO_ROWS, 4, False, 0)
            return
        made = in_shared_memory(case.make(in_shared_memory(NO_ROWS), 4, False, 0))
        assert len(made) == len(made.plan()) == len(made.plan().rows) == 0


@dataclass(frozen=True)
class RowNumbers:
    """A window whose rows are only their indices."""

    count: int
    columns: ColumnSpec = field(default_factory=lambda: ColumnSpec(("a",)))

    def __len__(self) -> int:
        return self.count


class PlannedSource:
    """A batch source over a planner, of one dataset or of the parts of a mixture.

    Args:
        planner: Plans the epochs.
        sizes: Number of rows of each dataset, by name.
    """

    def __init__(self, planner: Planner, sizes: Mapping[str, int]) -> None:
        self.names, self.windows = list(sizes), [RowNumbers(size) for size in sizes.values()]
        self.steps, self.rows = planner.steps, sum(sizes.values())
        self.plan, self.piece = planner.plan, planner.piece

    def ahead(self, source: int, rows: Indices) -> None:
        """Asserts that the dataset has the rows."""
        assert 0 <= rows.min(initial=0) <= rows.max(initial=0) < len(self.windows[source])


def in_shared_memory(value: T) -> T:
    """What a process gets from Ray's object store: the value with read-only arrays, empty ones too."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[buffer.raw().tobytes() for buffer in buffers])


def collate(window: RowNumbers, rows: Indices, dataset: str) -> dict[str, Any]:
    """A step's inputs: the indices of its rows."""
    return {"source": dataset, "rows": rows}


def batch_source(case: SamplerCase, dataset: str, size: int) -> PlannedSource:
    """What a worker reads batches from, over one of :data:`ray_st.testing.sampler_rows.DATASETS`."""
    rows = DATASETS[dataset]
    sizes = {"": len(rows)}
    if case.mixes:
        sizes = {str(number): len(part) for number, part in enumerate(split(rows))}
    made = case.make(in_shared_memory(rows), size, False, 5)
    return PlannedSource(in_shared_memory(Planner(made, EPOCHS)), sizes)


def rank_of(source: PlannedSource, world: World) -> StepDataset:
    """What a rank reads: indices of rows in place of the rows."""
    return StepDataset(cast(BatchSource, source), world, cast(Collate, collate))


def batches(plan: Plan) -> list[list[int]]:
    """The batches of a plan as lists."""
    return [plan.batch(step).tolist() for step in range(len(plan))]


def steps_of(rank: StepDataset, steps: int, epoch: int = 0) -> Sequence[dict[str, Any]]:
    """What a rank gets in an epoch."""
    return [rank[epoch, step] for step in range(steps)]
