"""Runs whose number of workers follows the cluster, ``ScalingConfig(num_workers=(least, most))``.

Ray Train's elastic policy decides on the number of workers: before a group starts, and every
``elastic_resize_monitor_interval_s`` while one runs. This module changes three things about it. A running
group saves a checkpoint before it is replaced. Workers are counted where they can start now: the policy alone
counts CPUs and GPUs that other processes use, nodes being drained, and for a while lost ones, and Ray Train
then waits for a placement that cannot come. And that wait is short.

Ray Train's controller imports this module before it starts a worker, so it imports neither torch nor
transformers.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ray
from ray._private.state import actors, available_resources_per_node
from ray._private.state import state as cluster_state
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.util.placement_group import PlacementGroup, placement_group_table

from ray_st.runtime.cluster.connection import resources_of_worker
from ray_st.runtime.supervision.console import Channel
from ray_st.util.events import event, send_records_to, set_context
from ray_st.world import WorkerRange

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Ray Train's environment variable: seconds that it waits for the placement of a worker group."""

PLACEMENT_S = 15
"""Its value in an elastic run, unless the user has set it.

Workers are only requested where they fit, so a longer wait means that what was counted is gone. Then the
workers are counted anew.
"""


ANSWER_S = 2.0
"""Seconds in which a node has to take a connection."""

LOOK_S = 1.0
"""Seconds between two counts while there is no room for the least number of workers."""


@dataclass(frozen=True)
class Reserve:
    """Room that workers leave for another process of the run while that has none.

    Args:
        actor_id: Ray's id of it, in hex.
        resources: What it needs, by name.
    """

    actor_id: str
    resources: Mapping[str, float]

    def lacking(self) -> Mapping[str, float]:
        """What it waits for; nothing if it runs, or will not be started again."""
        return {} if actors(self.actor_id).get("State") in ("ALIVE", "DEAD") else self.resources


class ResizeAfterCheckpoint(ElasticScalingPolicy):
    """Ray Train's elastic policy, with a checkpoint before a running group is replaced.

    Args:
        scaling_config: The least and the greatest number of workers, and what each needs.
        channel: The channel to the driver's console; its monitor passes on to the workers that they should
            leave.
        reserve: Room for the process that evaluates in the background; None if there is none.
    """

    def __init__(
        self, scaling_config: ScalingConfig, channel: Channel, reserve: Reserve | None = None
    ) -> None:
        version_2: Any = scaling_config  # Ray declares the class of Train's first version
        super().__init__(version_2)
        self._channel, self._reserve = channel, reserve
        self._group: PlacementGroup | None = None
        self._runs = self._waits = False

    def after_controller_start(self, train_run_context: Any) -> None:
        """Sets up the controller's process: a short wait for a placement, and events for the console."""
        os.environ.setdefault(START_TIMEOUT, str(PLACEMENT_S))
        set_context(run=self._channel.run)
        send_records_to(self._channel.say)
        super().after_controller_start(train_run_context)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """The number of workers to start, once there is room for the least."""
        self._runs = False
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            self._group = None  # Ray Train frees its resources before it starts the next one
            ray.get(self._channel.monitor.resize.remote(False))
        else:
            self._wait()
        self._waits = not isinstance(decision, ResizeDecision)
        return decision

    def _wait(self) -> None:
        if not self._waits:
            least = WorkerRange.of(self.scaling_config.num_workers).least
            event("workers.awaited", f"waiting for room for {least} worker(s)", workers=least)
        time.sleep(LOOK_S)  # Ray Train asks again at once

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Never another number at once: the workers are asked to leave, and the next group has it."""
        self._runs = True
        self._group = worker_group_state.placement_group_handle.placement_group
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            ray.get(self._channel.monitor.resize.remote(True))
        return NoopDecision()

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        nodes = usable_nodes(ray.nodes(), cluster_state.get_draining_nodes())
        if not self._runs:
            nodes = answering(nodes)
        there = {node: amounts for node, amounts in reserved_resources.items() if node in nodes}
        counted: int = super()._count_possible_workers(there)
        beside = self._reserve.lacking() if self._reserve else {}
        return min(counted, workers_now(self.scaling_config, nodes, self._group, beside))


def workers_now(
    scaling: ScalingConfig,
    nodes: Collection[str] | None = None,
    group: PlacementGroup | None = None,
    beside: Mapping[str, float] = MappingProxyType({}),
) -> int:
    """The number of workers that the cluster has room for, once a group is gone.

    Args:
        scaling: What each worker needs, and the greatest number.
        nodes: Ids of the nodes on which they may start; by default those of the cluster.
        group: The placement group of the present workers; None if there are none.
        beside: Resources, by name, for which there must be room on a node as well.
    """
    if nodes is None:
        nodes = usable_nodes(ray.nodes(), cluster_state.get_draining_nodes())
    free = available_resources_per_node()
    fitting = room(
        {node: free.get(node, {}) for node in nodes},
        resources_of_worker(scaling),
        _held_by(group),
        str(scaling.placement_strategy),
        beside,
    )
    most = WorkerRange.of(scaling.num_workers).most
    return most if fitting is None else min(most, fitting)


def _held_by(group: PlacementGroup | None) -> Counter[str]:
    """How many workers of a group each node holds room for."""
    table: dict[str, Any] = {} if group is None else placement_group_table(group)
    return Counter(table.get("bundles_to_node_id", {}).values())


def usable_nodes(nodes: Iterable[Mapping[str, Any]], draining: Collection[str]) -> dict[str, tuple[str, int]]:
    """The nodes on which workers may start: their ids, and the addresses of their Ray processes.

    Args:
        nodes: Ray's table of nodes.
        draining: Ids of those that are being drained.
    """
    return {
        node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in nodes
        if node["Alive"] and node["NodeID"] not in draining
    }


def answering(nodes: Mapping[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """The nodes that can be connected to: Ray counts a lost node for some 15 seconds more.

    Args:
        nodes: The addresses of nodes' Ray processes.
    """
    with ThreadPoolExecutor(min(len(nodes), 32) or 1) as pool:
        answers = pool.map(_answers, nodes.values())
        return {node: nodes[node] for node, answer in zip(nodes, answers, strict=True) if answer}


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, ANSWER_S).close()
    except OSError:
        return False
    return True


def room(
    free: Mapping[str, Mapping[str, float]],
    each: Mapping[str, float],
    held: Mapping[str, int],
    strategy: str = "PACK",
    beside: Mapping[str, float] = MappingProxyType({}),
) -> int | None:
    """The number of workers that can be placed once the present group is gone.

    Args:
        free: The resources that nobody uses, by node and name.
        each: The resources of a worker, by name.
        held: The number of workers that each node holds room for, of the present group.
        strategy: How Ray places the workers.
        beside: Resources, by name, that must be left over on one of the nodes.

    Returns:
        The number; None if workers need nothing, so that any number of them fits.
    """
    needs = {name: amount for name, amount in each.items() if amount > 0}
    if not needs:
        return None
    nodes = [
        {name: amounts.get(name, 0) + held.get(node, 0) * needs.get(name, 0) for name in {*amounts, *needs}}
        for node, amounts in free.items()
    ]
    fitting = [_times(needs, node) for node in nodes]
    if beside:
        left = [(number, _times(needs, _without(nodes[number], beside))) for number in range(len(nodes))]
        able = [(fitting[number] - rest, number) for number, rest in left if _times(beside, nodes[number])]
        if able:  # on the node that loses the fewest workers
            lost, number = min(able)
            fitting[number] -= lost
    if strategy == "STRICT_PACK":
        return max(fitting, default=0)
    return sum(min(number, 1) if strategy == "STRICT_SPREAD" else number for number in fitting)


def _times(needs: Mapping[str, float], there: Mapping[str, float]) -> int:
    """How often resources fit into others."""
    return min(int(there.get(name, 0) / need + 1e-6) for name, need in needs.items())


def _without(there: Mapping[str, float], used: Mapping[str, float]) -> dict[str, float]:
    return {name: amount - used.get(name, 0) for name, amount in there.items()}
