"""A run on one to two workers, while a node is killed, given back, and drained: the losses and samples of a fixed one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.drill import Run, _node, ledger, make_cluster, pause

pytestmark = [pytest.mark.ray, pytest.mark.long]

STEPS, EVERY = 160, 10
LIMIT_S = 240.0


def lines(run: Run, workers: int, since: float) -> list[dict[str, Any]]:
    """What the first rank of groups of this size wrote down since a time."""
    found = [line for line in run.diary() if line["time"] > since and line["workers"] == workers]
    return [line for line in found if line["rank"] == 0]


def await_steps(run: Run, workers: int, since: float, steps: int = 8) -> list[dict[str, Any]]:
    """Waits until a group of this size has taken steps; its lines."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and run.process.poll() is None:
        if len(found := lines(run, workers, since)) > steps:
            return found
        pause(0.1)
    raise AssertionError(f"no {steps} steps on {workers} workers; see {run.folder}.log")


def losses(folder: Path) -> list[float]:
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def resize(run: Run, what: str, harm: Callable[[], None], workers: int) -> tuple[int, list[dict[str, Any]]]:
    """Changes the cluster; the last step before the next group began, and that group's lines."""
    at = time.time()
    harm()
    after = await_steps(run, workers, at)
    before = [line for line in run.diary() if line["time"] <= at or line["workers"] != workers]
    since, pause_s = after[1]["time"] - at, after[1]["time"] - before[-1]["time"]
    print(f"{what}: {workers} worker(s) after {since:.0f} s, {pause_s:.0f} s of it without a step")
    return max(line["step"] for line in before), after


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes with a CPU each, the first of which has the driver."""
    made = make_cluster(1, 1)
    yield made
    made.shutdown()


@pytest.fixture
def start(cluster: Any, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts a job on the cluster by a name, with options."""
    started: list[Run] = []

    def begin(name: str, *more: str) -> Run:
        same = ["--steps", str(STEPS), "--save-steps", str(EVERY), "--dropout", "0"]
        started.append(Run(tmp_path / name, cluster, [*same, *more]))
        started[-1].start()
        return started[-1]

    yield begin
    for run in started:
        run.process.kill()
        run.end()


def other_node(cluster: Any, found: list[dict[str, Any]]) -> str:
    """The id of the node, among those that ranks wrote down, that does not have the driver."""
    (other,) = {line["node"] for line in found} - {cluster.head_node.node_id}
    return str(other)


def give_back(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=150_000_000)


def drain(cluster: Any, node: str) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    GcsClient(cluster.address).drain_node(node, reason, "test", int((time.time() + 90) * 1000))


def test_losses_and_samples_are_those_of_a_fixed_number(cluster: Any, start: Callable[..., Run]) -> None:
    fixed = start("fixed", "--workers", "2", "--step-s", "0")
    assert fixed.end() == 0
    run = start("elastic", "--workers", "1-2", "--step-s", "0.3")
    assert await_steps(run, 2, 0.0, EVERY + 5)[0]["step"] == 0

    node = _node(cluster, other_node(cluster, run.diary()))
    lost, alone = resize(run, "killed", lambda: cluster.remove_node(node, allow_graceful=False), 1)
    assert lost - alone[0]["step"] <= EVERY  # a checkpoint interval at most

    again, both = resize(run, "given back", lambda: give_back(cluster), 2)
    assert both[0]["step"] == again  # no step is repeated

    since = [line for line in run.diary() if line["time"] >= both[0]["time"]]
    drained, left = resize(run, "drained", lambda: drain(cluster, other_node(cluster, since)), 1)
    assert left[0]["step"] == drained

    assert run.end() == 0
    found, expected = losses(run.folder), losses(fixed.folder)
    assert len(found) == len(expected) == STEPS
    apart = max(abs(ours - theirs) for ours, theirs in zip(found, expected, strict=True))
    print(f"losses are at most {apart:.0e} apart")
    assert apart < 1e-5
    assert ledger(run.folder) == ledger(fixed.folder)
