"""Actors that share a list of tasks: each takes the next task when idle; dead actors are replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_st.runtime.cluster.connection import resources, this_node
from ray_st.runtime.cluster.handles import Actor, result_of, start_actor
from ray_st.runtime.cluster.node_attention import check_attention

Needs = dict[str, float]
"""The resources an actor requests: an amount of "CPU" or "GPU", such as ``{"GPU": 0.5}``."""

RESERVE_S = 15.0
"""Seconds to wait for resources that the cluster has but that other jobs may be about to release."""

MOST_DEATHS = 3
"""How many actors may die while running a task before the task is abandoned."""


@dataclass
class _Task:
    """A method call; the initial call, which returns once the actor is constructed, has no number."""

    method: str
    arguments: tuple[Any, ...] = ()
    number: int | None = None
    deaths: int = 0


class ActorPool(AbstractContextManager["ActorPool"]):
    """Actors of one class with reserved resources, so that replacements can always be scheduled.

    As a context manager, it stops them on exit.

    Args:
        kind: The actors' class.
        arguments: Constructor arguments; object references are resolved where the actor starts.
        needs: The resources of each actor.
        here: Whether the actors must run on this process's node.
        attention: The attentions of their models that nodes may lack; see
            :func:`ray_st.models.attention.of_packages`.

    Attributes:
        actors: The current actor handles; empty once the pool was stopped.

    Raises:
        ValueError: If the cluster does not have these resources, they are not free, or a node lacks one of
            the attentions.
    """

    def __init__(
        self,
        kind: type,
        arguments: Sequence[Any],
        needs: Sequence[Needs],
        here: bool = False,
        attention: Collection[str] = (),
    ) -> None:
        check_attention(attention, needs, [this_node() if here else {}])
        self._kind, self._arguments, self._needs = kind, arguments, list(needs)
        self._group = _reserve(self._needs, here)
        self.actors = [self._start(slot) for slot in range(self.size)]

    @property
    def size(self) -> int:
        """Number of actors."""
        return len(self._needs)

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
        busy = dict(self._submit(slot, _Task("__ray_ready__")) for slot in range(self.size))
        while waiting or any(task.number is not None for _, task in busy.values()):
            while idle and waiting:
                busy |= [self._submit(idle.pop(), waiting.popleft())]
            (done,), _ = ray.wait(list(busy), num_returns=1)
            slot, task = busy.pop(done)
            try:
                result = result_of(done)
            except RayActorError as error:
                self._replace(slot, task, error)
                if task.number is not None:
                    waiting.appendleft(task)
                    task = _Task("__ray_ready__")
                busy |= [self._submit(slot, task)]
            else:
                idle.append(slot)
                if task.number is not None:
                    yield task.number, result

    def stop(self) -> None:
        """Kills the actors and releases their resources."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
        remove_placement_group(self._group)

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def _start(self, slot: int) -> Actor:
        return start_actor(
            self._kind,
            *self._arguments,
            num_cpus=self._needs[slot].get("CPU", 0),
            num_gpus=self._needs[slot].get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, slot),
        )

    def _submit(self, slot: int, task: _Task) -> tuple[ray.ObjectRef[Any], tuple[int, _Task]]:
        return getattr(self.actors[slot], task.method).remote(*task.arguments), (slot, task)

    def _replace(self, slot: int, task: _Task, error: RayActorError) -> None:
        task.deaths += 1
        if error.actor_init_failed or task.deaths >= MOST_DEATHS:
            what = "An encoder cannot start" if task.number is None else f"Encoders die of task {task.number}"
            raise RuntimeError(f"{what}; this is what Ray says of it: {error}") from error
        ray.kill(self.actors[slot])
        self.actors[slot] = self._start(slot)


def _reserve(needs: Sequence[Needs], here: bool) -> PlacementGroup:
    total = {name: sum(each.get(name, 0) for each in needs) for name in ("CPU", "GPU")}
    # Rounded, as three thirds of a GPU add up to one.
    total = {name: round(amount, 3) for name, amount in total.items() if amount}
    have = _only(total, resources(here))
    whose = "this node, which alone sees the local files," if here else "the cluster"
    if any(amount > have[name] for name, amount in total.items()):
        raise ValueError(
            f"{len(needs)} encoder(s) need {total}; {whose} has {have}. Ask for fewer, or add nodes."
        )
    group = placement_group(list(needs), bundle_label_selector=[this_node()] * len(needs) if here else None)
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
