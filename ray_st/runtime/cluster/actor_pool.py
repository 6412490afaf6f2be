"""Actors that share a list of tasks: each takes the next task when idle; dead actors are replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_st.runtime.cluster.connection import NODE_ID

Needs = dict[str, float]
"""The resources an actor requests: an amount of "CPU" or "GPU", such as ``{"GPU": 0.5}``."""

RESERVE_S = 15.0
"""Seconds to wait for resources that the cluster has but that other jobs may be about to release."""

MOST_DEATHS = 3
"""How many actors may die while running a task before the task is abandoned."""


@dataclass
class _Task:
    """A method call; an actor's initial call has no number."""

    method: str
    arguments: tuple[Any, ...] = ()
    number: int | None = None
    deaths: int = 0


class ActorPool:
    """Actors of one class with reserved resources, so that replacements can always be scheduled.

    Args:
        kind: The actors' class. Its method ``ready()`` returns once the actor has been constructed.
        arguments: Constructor arguments; object references are resolved where the actor starts.
        needs: The resources of each actor.
        here: Whether the actors must run on this process's node.

    Raises:
        ValueError: If the cluster does not have these resources, or they are not free.
    """

    def __init__(
        self, kind: type, arguments: Sequence[Any], needs: Sequence[Needs], here: bool = False
    ) -> None:
        self._kind: Any = ray.remote(kind)
        self._arguments, self._needs = arguments, list(needs)
        self._group = _reserve(self._needs, here)
        self._actors = [self._start(seat) for seat in range(len(self._needs))]

    @property
    def size(self) -> int:
        """Number of actors."""
        return len(self._needs)

    @property
    def actors(self) -> list[Any]:
        """The current actor handles."""
        return list(self._actors)

    def run(self, method: str, tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Calls a method for each task; each actor runs one task at a time.

        Args:
            method: A method of the actors.
            tasks: The method's arguments for each task.

        Returns:
            Number and result of each task, in order of completion.

        Raises:
            RuntimeError: If an actor cannot be restarted, or several actors died while running one task.
            Exception: Whatever the method raises.
        """
        waiting = deque(_Task(method, arguments, number) for number, arguments in enumerate(tasks))
        idle: list[int] = []
        busy = dict(self._give(seat, _Task("ready")) for seat in range(self.size))
        while waiting or any(task.number is not None for _, task in busy.values()):
            while idle and waiting:
                busy |= [self._give(idle.pop(), waiting.popleft())]
            (done,), _ = ray.wait(list(busy), num_returns=1)
            seat, task = busy.pop(done)
            try:
                result = _result(done)
            except RayActorError as error:
                self._replace(seat, task, error)
                if task.number is not None:
                    waiting.appendleft(task)
                    task = _Task("ready")
                busy |= [self._give(seat, task)]
            else:
                idle.append(seat)
                if task.number is not None:
                    yield task.number, result

    def stop(self) -> None:
        """Kills the actors and releases their resources."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        remove_placement_group(self._group)

    def _start(self, seat: int) -> Any:
        needs, where = self._needs[seat], PlacementGroupSchedulingStrategy(self._group, seat)
        options = {
            "num_cpus": needs.get("CPU", 0),
            "num_gpus": needs.get("GPU", 0),
            "scheduling_strategy": where,
        }
        return self._kind.options(**options).remote(*self._arguments)

    def _give(self, seat: int, task: _Task) -> tuple[Any, tuple[int, _Task]]:
        return getattr(self._actors[seat], task.method).remote(*task.arguments), (seat, task)

    def _replace(self, seat: int, task: _Task, error: RayActorError) -> None:
        task.deaths += 1
        if error.actor_init_failed or task.deaths >= MOST_DEATHS:
            what = "An encoder cannot start" if task.number is None else f"Encoders die of task {task.number}"
            raise RuntimeError(f"{what}; this is what Ray says of it: {error}") from error
        ray.kill(self._actors[seat])
        self._actors[seat] = self._start(seat)


def granted_device() -> str:
    """The device of an actor of a pool: "cuda" if it was granted a GPU or a share of one, else "cpu"."""
    return "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error


def resources(here: bool) -> Needs:
    """The total resources of the cluster, or of this process's node only."""
    if not here:
        return dict(ray.cluster_resources())
    mine = ray.get_runtime_context().get_node_id()
    return next(dict(node["Resources"]) for node in ray.nodes() if node["NodeID"] == mine)


def _reserve(needs: Sequence[Needs], here: bool) -> PlacementGroup:
    total = {name: sum(each.get(name, 0) for each in needs) for name in ("CPU", "GPU")}
    total = {
        name: round(amount, 3) for name, amount in total.items() if amount
    }  # three thirds of a GPU make one
    have = _only(total, resources(here))
    whose = "this node, which alone sees the local files," if here else "the cluster"
    if any(amount > have[name] for name, amount in total.items()):
        raise ValueError(
            f"{len(needs)} encoder(s) need {total}; {whose} has {have}. Ask for fewer, or add nodes."
        )
    node = {NODE_ID: ray.get_runtime_context().get_node_id()}
    group = placement_group(list(needs), bundle_label_selector=[node] * len(needs) if here else None)
    if not group.wait(RESERVE_S):
        remove_placement_group(group)
        raise ValueError(
            f"{len(needs)} encoder(s) need {total}, each on one node; {whose} has {have}, but free in the "
            f"whole cluster are {_only(total, ray.available_resources())}. Ask for fewer, or wait until "
            "others have ended."
        )
    return group


def _only(names: Iterable[str], amounts: Needs) -> Needs:
    return {name: amounts.get(name, 0) for name in names}
