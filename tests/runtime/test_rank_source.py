"""Ranks that fetch their own rows: the values of whole blocks, on one node and on several, and nothing but their share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, ObjectLostError

import nodes_script
from nodes_script import COLUMNS, block, collate
from ray_st.data.plan import Piece, Plan
from ray_st.runtime.data import rank_source
from ray_st.runtime.data.block_source import BlockRefs, RayBatchSource
from ray_st.runtime.data.rank_source import RankBatchSource, SourceConfig, rows_of
from ray_st.training.data.step_loader import BATCH, SHARES, StepDataset
from ray_st.world import World

pytestmark = pytest.mark.ray


def source_of(sizes: tuple[int, ...], batch: int, datasets: int = 1) -> RayBatchSource:
    """Blocks of these sizes, the same ones in each dataset, all rows in an order drawn at random."""
    made = [block(number).slice(0, size) for number, size in enumerate(sizes)]
    refs = BlockRefs({number: ray.put(table) for number, table in enumerate(made)}, sizes, COLUMNS)
    order = np.random.default_rng(0).permutation(sum(sizes))
    orders = [order + number * sum(sizes) for number in range(datasets)]
    plans = [Plan.consecutive(rows, batch) for rows in orders]
    turns = np.arange(sum(map(len, plans))).reshape(datasets, -1).T.ravel()
    return RayBatchSource({str(n): refs for n in range(datasets)}, Fixed(Plan.joined(plans).reorder(turns)))


class Fixed:
    """Plans given batches, in every epoch; their blocks may come with them."""

    def __init__(self, plan: Plan, *blocks: Mapping[int, Any]) -> None:
        self.steps, self.asked = len(plan), 0
        self._plan, self._blocks = plan, blocks

    def piece(self, epoch: int, step: int) -> Piece:
        self.asked += 1
        return Piece(self._plan, blocks=self._blocks)


def read(source: Any, rank: int, size: int, steps: Any) -> list[Any]:
    """What a rank gets; the number of a row's block and its place in it are its text."""
    made: Any = collate
    loader = StepDataset(source, World(rank, size), made)
    found = [loader[0, step] for step in steps]
    return [[inputs[BATCH].tolist(), inputs[SHARES], inputs["ids"], inputs["labels"]] for inputs in found]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("batch", "datasets"), [(2, 1), (7, 2), (64, 1), (64, 3)])
def test_a_rank_reads_what_it_reads_from_whole_blocks(
    cluster: None, monkeypatch: pytest.MonkeyPatch, size: int, batch: int, datasets: int
) -> None:
    monkeypatch.setattr(rank_source, "SHARE_ROWS", 1)
    monkeypatch.setattr(rank_source, "SHARE_STEPS", 5)
    whole = source_of((40, 3, 25), batch, datasets)
    for rank in range(size):
        own = RankBatchSource.of(whole, World(rank, size))
        assert read(own, rank, size, range(whole.steps)) == read(whole, rank, size, range(whole.steps))


def test_steps_may_be_asked_for_in_any_order_and_by_another_process(cluster: None) -> None:
    whole = source_of((40, 3, 25), 4)
    own = RankBatchSource.of(whole, World(1, 2))
    steps = [16, 0, 9, 9, 3, 15]
    expected = read(whole, 1, 2, steps)
    assert read(own, 1, 2, steps) == expected
    assert read(cloudpickle.loads(cloudpickle.dumps(own)), 1, 2, steps) == expected


def test_rows_of_other_ranks_come_from_their_blocks(cluster: None) -> None:
    whole = source_of((40, 3, 25), 64)
    own = RankBatchSource.of(whole, World(1, 2))
    piece, rows = own.piece(0, 0), np.arange(68)
    assert own.share(0, rows) is None
    assert own.share(0, rows[:0]) is None
    assert [ids.tolist() for ids in own.windows[0].ids("a", rows)] == [
        ids.tolist() for ids in whole.windows[0].ids("a", rows)
    ]
    assert piece.batch(0).tolist() == whole.piece(0, 0).batch(0).tolist()


def test_what_is_read_is_a_bounded_number_of_steps(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_source, "SHARE_ROWS", 1)
    whole = source_of((2000,), 8)
    own = RankBatchSource.of(whole, World(0, 2))
    read(own, 0, 2, range(whole.steps))
    assert len(own._shares) == 3
    assert all(len(share._numbers) <= 32 * 4 for shares in own._shares for share in shares)


@pytest.mark.parametrize("with_pieces", [False, True])
def test_lost_blocks_are_asked_for_again(
    cluster: None, monkeypatch: pytest.MonkeyPatch, with_pieces: bool
) -> None:
    whole = source_of((40, 25), 8)
    if with_pieces:
        refs = whole.blocks["0"]
        planner = Fixed(whole.piece(0, 0).plan, refs.references)
        whole = RayBatchSource({"0": BlockRefs({}, refs.rows, COLUMNS)}, planner)
    own = RankBatchSource.of(whole, World(0, 2))
    lost: list[int] = []

    def lose(places: Any, *blocks: Any) -> Any:
        if len(lost) < 1:
            lost.append(len(blocks))
            raise ObjectLostError(ray.ObjectID.from_random().hex(), None, "lost")
        return rows_of(places, *blocks)

    monkeypatch.setattr(rank_source, "rows_of", lose)
    assert read(own, 0, 2, range(whole.steps)) == read(whole, 0, 2, range(whole.steps))
    assert lost == [2]
    if with_pieces:
        assert planner.asked == 3  # by the rank, for its lost blocks, and for whole ones


def test_an_owner_that_does_not_answer_is_not_asked_for_each_block(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def silent(blocks: list[Any], timeout: int) -> Any:
        asked.append(len(blocks))  # never several: Ray would abort the process if they have several owners
        if len(asked) > 1:
            raise GetTimeoutError
        return {blocks[0]: {"node_ids": ["ab" * 28]}}

    monkeypatch.setattr(rank_source, "get_object_locations", silent)
    whole = source_of((40, 3, 25, 2), 70)
    own = RankBatchSource.of(whole, World(0, 2))
    assert read(own, 0, 2, [0]) == read(whole, 0, 2, [0])  # a node that is not there any more, too
    assert asked == [1, 1]


def test_blocks_with_other_columns_are_not_joined() -> None:
    one, other = pa.table({"a": [1, 2, 3]}), pa.table({"b": ["x"]})
    found = rows_of([np.array([2, 0]), np.array([1]), np.array([0])], one, one, other)
    assert [table.to_pydict() for table in found] == [{"a": [3, 1, 2]}, {"b": ["x"]}]


def test_only_ranks_on_several_nodes_read_their_own(cluster: None) -> None:
    config = SourceConfig({"train": source_of((40,), 8)})
    for nodes, kind in ((["a", "a"], RayBatchSource), (["a", "b"], RankBatchSource), (None, RayBatchSource)):
        given = config.configure({"train": None}, 2, worker_node_ids=nodes)
        assert [type(sources["train"]) for sources in given] == [kind, kind]


# ---- several nodes ----


def printed(*arguments: object) -> Any:
    """What the script prints, in a process with a cluster of its own."""
    environment = {
        **os.environ,
        "RAY_ADDRESS": "",
        "PYTHONPATH": os.pathsep.join([str(Path(nodes_script.__file__).parent), *sys.path]),
    }
    command = [sys.executable, nodes_script.__file__, *map(str, arguments)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_node_fetches_the_rows_of_its_rank_and_no_block(tmp_path: Path) -> None:
    found = printed("read", tmp_path)
    assert found["rows"]
    share = found["all_bytes"] / 2
    assert all(0.9 * share < taken < 1.1 * share for taken in found["bytes"])
    before, own, whole = found["copies"]
    assert before == own == nodes_script.BLOCKS
    assert whole > own  # without it, each node gets the blocks of the others


@pytest.mark.long
def test_ranks_read_on_if_a_node_with_blocks_is_lost(tmp_path: Path) -> None:
    assert printed("read", tmp_path, "--lose")["rows"]


@pytest.mark.long
def test_a_run_on_two_nodes_is_one_in_this_process_though_planner_and_worker_are_killed(
    tmp_path: Path, tiny_folder: Path
) -> None:
    found = printed("train", tmp_path, tiny_folder)
    assert found["steps"]
    assert found["ledger"]
    assert found["killed"] == [True, True]
    assert found["apart"] < 1e-5
    assert found["weights"] < 1e-4
    assert found["sources"] == ["RankBatchSource"] * 2


@pytest.mark.long
def test_the_order_of_a_thousand_steps_depends_on_nothing_but_the_rows(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """Not on the object store (80 MB, 2 GB), the number of workers (one to three), or the format of the files."""
    found = []
    for store in (80, 2000):
        folder = tmp_path / str(store)
        folder.mkdir()
        found.append(printed("order", folder, tiny_folder, "--store", store))
    assert found[0] == found[1]
    assert len(found[0]) == 6
    assert len(set(found[0].values())) == 1
