"""Evaluators on all ranks: the same figures everywhere, and a failure of one rank ends all instead of hanging."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import evaluators
from processes import run_ranks
from ray_st import SentenceTransformer
from ray_st.evaluation import SequentialEvaluator
from ray_st.training.distributed import evaluator_team
from ray_st.training.distributed.evaluator_team import Measured, measure
from ray_st.util.endings import PeerError
from ray_st.world import World
from simulated_team import ThreadTeam
from simulated_team import together as on_threads


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[World], Any]], list[Any]]:
    """Runs a task on each rank of a world whose ranks are threads; what it returns or raises."""
    here = threading.local()

    def gather(value: Any) -> list[Any]:
        return here.team.gather(value)

    def run(size: int, task: Callable[[World], Any]) -> list[Any]:
        def on_one(team: ThreadTeam) -> Any:
            here.team = team
            try:
                return task(World(team.rank, size))
            except (ValueError, OSError, PeerError) as error:
                return error

        return on_threads(size, on_one)

    monkeypatch.setattr(evaluator_team, "gather_objects", gather)
    return run


@pytest.mark.parametrize("size", [1, 2, 3])
def test_figures_are_those_of_one_process_on_every_rank(
    size: int, on_ranks: Any, tiny_model: Any, tmp_path: Path
) -> None:
    expected = measure(copy.deepcopy(tiny_model), evaluators.one_of_each(), World())

    def task(world: World) -> Measured:
        return measure(copy.deepcopy(tiny_model), evaluators.one_of_each(), world, str(tmp_path))

    for found in on_ranks(size, task):
        assert found.metrics == expected.metrics
        assert found.primary_metrics == expected.primary_metrics
        assert found.primary_metrics[-2:] == ("own_norm", None)
        assert list(found.metrics)[-1] == "evaluator_4"
    for file in tmp_path.iterdir():
        assert file.read_text().count("\n") == 2  # the header and one line: one rank writes


@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_failure_on_one_rank_reaches_the_others_wherever_they_are(
    place: int, on_ranks: Any, tiny_model: Any, tmp_path: Path
) -> None:
    asked = evaluators.one_of_each()
    asked.insert(place, evaluators.broken)

    def task(world: World) -> Measured:
        return measure(copy.deepcopy(tiny_model), asked, world, str(tmp_path))

    first, *others = on_ranks(3, task)
    assert str(first) == "the disk is full"
    assert [str(error) for error in others] == ["rank 0 failed: ValueError: the disk is full"] * 2
    assert all(isinstance(error, PeerError) for error in others)


def test_a_file_that_cannot_be_written_is_told_in_the_middle_of_a_sequence(
    on_ranks: Any, tiny_model: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sequence = SequentialEvaluator(evaluators.one_of_each())

    def task(world: World) -> Measured:
        return measure(copy.deepcopy(tiny_model), [copy.copy(sequence)], world, str(tmp_path / "file"))

    first, other = on_ranks(2, task)
    assert isinstance(first, OSError)
    assert isinstance(other, PeerError)
    assert type(first).__name__ in str(other)


def test_what_fails_on_all_ranks_fails_with_its_own_error(on_ranks: Any, tiny_model: Any) -> None:
    def all_fail(model: Any, **options: Any) -> float:
        raise ValueError("no figures today")

    def task(world: World) -> Measured:
        return measure(copy.deepcopy(tiny_model), [all_fail], world)

    for error in on_ranks(3, task):
        assert type(error) is ValueError


def test_afterwards_a_model_works_alone(on_ranks: Any, tiny_model: Any, tmp_path: Path) -> None:
    def task(world: World) -> list[float]:
        model = copy.deepcopy(tiny_model)
        with pytest.raises((ValueError, PeerError)):
            measure(model, [evaluators.broken], world, str(tmp_path))
        return model.encode("on my own").tolist() if world.is_first else []

    assert on_ranks(2, task)[0] == tiny_model.encode("on my own").tolist()


def one_rank(rank: int, size: int, folder: str, model: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size, init_method=f"file://{folder}/meet")
    try:
        measure(
            SentenceTransformer(model, device="cpu"), [evaluators.broken], World(rank, size), f"{folder}/csv"
        )
    except (ValueError, PeerError) as error:
        Path(f"{folder}/{rank}").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_which_one_fails(tiny_folder: Path, tmp_path: Path) -> None:
    run_ranks(one_rank, 2, str(tmp_path), str(tiny_folder))
    assert (tmp_path / "0").read_text() == "ValueError: the disk is full"
    assert (tmp_path / "1").read_text() == "PeerError: rank 0 failed: ValueError: the disk is full"
