"""A rank that has no more calls of the model to make makes those of the others with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ray_st.training.distributed import evaluator_team, paired_calls
from ray_st.training.distributed.evaluator_team import together
from ray_st.util.endings import PeerError
from ray_st.util.team import Alone, share_out
from ray_st.world import World
from simulated_team import ThreadTeam
from simulated_team import together as on_threads


class Model(nn.Module):
    """Counts its calls, in each of which all ranks have to take part."""

    def __init__(self, meet: Callable[[str], None], broken: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.meet, self.broken = meet, broken
        self.team: Any = Alone()
        self.rows, self.tasks = list[int](), list[Any]()

    def forward(self, features: dict[str, Any], task: str | None = None) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.meet("call")
        if self.broken:
            raise ValueError("no such token")
        self.rows.append(len(features["input_ids"]))
        self.tasks.append(task)
        return features["input_ids"].sum(1) * self.weight


def on_ranks(
    size: int, task: Callable[[World, Callable[[str], None]], Any], monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """Results of a task on ranks that are threads, and an exchange in which all of them must do the same."""
    here = threading.local()

    def gather(value: Any, kind: str) -> list[Any]:
        told = here.team.gather((kind, value))
        assert len({kind for kind, _ in told}) == 1, told
        return [value for _, value in told]

    monkeypatch.setattr(evaluator_team, "gather_objects", lambda value: gather(value, "gather"))
    monkeypatch.setattr(
        paired_calls, "broadcast_object", lambda value, rank: gather(value, "broadcast")[rank]
    )
    monkeypatch.setattr(
        paired_calls,
        "sum_of_numbers",
        lambda values: [sum(column) for column in zip(*gather(values, "sum"), strict=True)],
    )

    def run(team: ThreadTeam) -> Any:
        here.team = team
        return task(World(team.rank, size), lambda kind: gather(None, kind) and None)

    return on_threads(size, run)


def features(rows: int, first: int = 0) -> dict[str, Any]:
    return {"input_ids": torch.arange(first, first + rows)[:, None]}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("items", [0, 1, 5, 8])
def test_all_ranks_make_every_call(size: int, items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def task(world: World, meet: Callable[[str], None]) -> tuple[Any, int, set[Any]]:
        model = Model(meet)
        with torch.no_grad(), together(model, world, paired=True):
            found = share_out(
                model.team, range(items), lambda item: model(features(3, item), task="query").tolist()
            )
            for _ in range(world.rank):  # each by itself, as often as it likes
                model(features(2), task="query")
        return found, len(model.rows), set(model.tasks)

    found = on_ranks(size, task, monkeypatch)
    expected = [[float(item + row) for row in range(3)] for item in range(items)]
    assert [one for one, _, _ in found] == [expected] * size
    rounds = -(-items // size)
    assert {calls for _, calls, _ in found} == {rounds + size - 1}
    assert set().union(*(tasks for _, _, tasks in found)) == {"query"}


def test_a_rank_that_fails_tells_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(world: World, meet: Callable[[str], None]) -> str:
        model = Model(meet)
        try:
            with torch.no_grad(), together(model, world, paired=True):
                if world.rank == 1:
                    raise KeyError("a corpus")
                for _ in range(3):
                    model(features(2))
                model.team.gather(None)
        except (KeyError, PeerError) as error:
            return f"{type(error).__name__} {len(model.rows)}: {error}"
        return "no error"

    first, second, third = on_ranks(3, task, monkeypatch)
    assert first == third == "PeerError 3: rank 1 failed: KeyError: 'a corpus'"
    assert second == "KeyError 3: 'a corpus'"


def test_a_rank_that_fails_within_a_call_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(world: World, meet: Callable[[str], None]) -> str:
        model = Model(meet, broken=True)  # on all ranks, so that none waits for ever
        with (
            torch.no_grad(),
            pytest.raises(ValueError, match="no such token"),
            together(model, world, paired=True),
        ):
            model(features(2))
        return "raised"

    assert on_ranks(2, task, monkeypatch) == ["raised"] * 2
