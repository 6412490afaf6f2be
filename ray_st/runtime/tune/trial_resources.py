"""The resources of a trial, and how many trials the cluster has room for."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import ray
from ray import tune
from ray.train import ScalingConfig

from ray_st.runtime.cluster.node_attention import check_attention, check_attention_of_workers
from ray_st.runtime.train.launch import resolve_scaling, workers_of
from ray_st.util.value_checks import is_number

_LOOK_S = 1.0
"""Seconds between two looks at the cluster's nodes."""

_DRIVER_BYTES = 1_000_000  # Ray refuses a placement group of nothing


@dataclass(frozen=True)
class Need:
    """The resources of a trial.

    Args:
        each: The amount a worker gets, by the name of the resource.
        scaling: The scaling of a trial on several workers; None for one that runs in its own process.
    """

    each: Mapping[str, float]
    scaling: ScalingConfig | None = None

    @classmethod
    def of(
        cls, scaling: ScalingConfig | None, asked: Mapping[str, float] | None, use_cpu: bool = False
    ) -> Need:
        """The resources of a trial.

        Args:
            scaling: The user's scaling, or None.
            asked: Resources of a trial on one worker, or None.
            use_cpu: Whether the training arguments ask for CPUs.

        Raises:
            ValueError: If both are given, or an amount is not a number.
        """
        workers = 1 if scaling is None else workers_of(scaling).most
        if asked is not None and workers > 1:
            raise ValueError(
                "resources_per_trial is for trials on one worker; several get "
                "scaling_config.resources_per_worker each."
            )
        if scaling is not None and workers > 1:
            return cls(_of_worker(scaling), replace(scaling, num_workers=workers))
        if asked is None:
            return cls(_of_worker(resolve_scaling(scaling, use_cpu)))
        for name, amount in asked.items():
            if not is_number(amount, least=0):
                raise ValueError(f"resources_per_trial[{name!r}]: expected a number, found {amount!r}.")
        return cls({_ray_name(name): float(amount) for name, amount in asked.items() if amount})

    @property
    def workers(self) -> int:
        """How many workers a trial has."""
        return 1 if self.scaling is None else workers_of(self.scaling).most

    def room(self) -> int:
        """How many trials fit into the cluster at its current size."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = sum(_fitting(node, self.each) for node in nodes)
        return workers // self.workers

    def own_process(self) -> tune.PlacementGroupFactory:
        """What Ray Tune reserves for a trial's own process: hardly anything if it has workers."""
        driver: dict[str, float] = {"CPU": 0, "memory": _DRIVER_BYTES}
        return tune.PlacementGroupFactory([driver if self.scaling else dict(self.each)])

    def check(self, attention: Collection[str] = ()) -> None:
        """Checks that a trial fits into the cluster, where it would wait forever, and can compute there.

        Args:
            attention: The attentions that nodes may lack; see :func:`ray_st.models.attention.of_packages`.

        Raises:
            ValueError: Naming what is needed and what there is.
        """
        if self.room() < 1:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            found = [{name: node.get(name, 0.0) for name in self.each} for node in nodes]
            raise ValueError(
                f"A trial needs {self.workers} worker(s) with {dict(self.each)} each; the cluster's nodes "
                f"have {found}. Lower resources_per_trial or scaling_config, or add nodes."
            )
        if self.scaling is None:
            check_attention(attention, [self.each])
        else:
            check_attention_of_workers(attention, self.scaling)


class Limit:
    """The most trials at a time, for the cluster's current size.

    Asked for at each of Ray Tune's steps, up to hundreds of times a second, it looks at the nodes once a
    second.

    Args:
        need: The resources of a trial.
        most: The user's limit; None for none.
    """

    def __init__(self, need: Need, most: int | None) -> None:
        self._need, self._most = need, most
        self._found, self._looked = 1, -math.inf

    def __call__(self) -> int:
        """How many."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._found, self._looked = max(self._need.room(), 1), time.monotonic()
        return min(self._most or self._found, self._found)


def _of_worker(scaling: ScalingConfig) -> dict[str, float]:
    each: dict[str, float] = dict(scaling.resources_per_worker or {})  # type: ignore[arg-type]
    each.setdefault("GPU" if scaling.use_gpu else "CPU", 1)
    return {name: float(amount) for name, amount in each.items() if amount}


def _fitting(node: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many workers a node holds."""
    return min((int(node.get(name, 0) / amount + 1e-6) for name, amount in each.items()), default=1_000)


def _ray_name(name: str) -> str:
    """Ray Tune's users write cpu and gpu, its placement groups CPU and GPU."""
    return name.upper() if name in ("cpu", "gpu") else name
