from __future__ import annotations

import pickle

import pytest

from ray_st.world import WorkerRange, World


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 64, 1001])
def test_shares_are_disjoint_cover_all_rows_in_order_and_differ_by_one_at_most(size: int, rows: int) -> None:
    worlds = [World(rank, size) for rank in range(size)]
    assert [row for world in worlds for row in range(rows)[world.share(rows)]] == list(range(rows))
    shares = worlds[0].shares(rows)
    assert shares == [len(range(rows)[world.share(rows)]) for world in worlds]
    assert max(shares) - min(shares) <= 1


def test_a_world_of_one_is_the_default() -> None:
    assert World() == World(rank=0, size=1)
    assert World().is_first
    assert not World(1, 2).is_first


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"rank={rank}, size={size}"):
        World(rank, size)


def test_a_world_is_a_value() -> None:
    world = World(1, 4, 1, 0)
    assert pickle.loads(pickle.dumps(world)) == world
    assert hash(world) == hash(World(1, 4, 1, 0))


@pytest.mark.parametrize(("given", "least", "most"), [(0, 0, 0), (3, 3, 3), ((1, 4), 1, 4), ([2, 2], 2, 2)])
def test_a_number_of_workers_or_a_range(given: object, least: int, most: int) -> None:
    workers = WorkerRange.of(given)
    assert (workers.least, workers.most) == (least, most)
    assert workers.is_fixed == (least == most)
    assert str(workers) == (str(most) if least == most else f"{least} to {most}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 4), r"a run needs one worker at least; found \(0, 4\)\. Begin the range with 1"),
        ((4, 1), r"the least number of workers comes first; found \(4, 1\)"),
        ((1.0, 4), r"expected a whole number of at least 0, found \(1\.0, 4\); .* such as \(1, 4\)"),
        ((1, 2, 3), r"found \(1, 2, 3\)"),
        ((-1, 2), r"found \(-1, 2\)"),
        ((True, 2), r"found \(True, 2\)"),
        (-1, "found -1"),
        (True, "found True"),
        (2.5, r"found 2\.5"),
        ("two", "found 'two'"),
        (None, "found None"),
    ],
)
def test_no_number_of_workers_and_no_range(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^num_workers: .*{message}"):
        WorkerRange.of(given)
