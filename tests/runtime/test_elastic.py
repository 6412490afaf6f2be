"""How many workers a run has, and that they save a checkpoint before there is another number of them."""

from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
)

from ray_st.runtime.supervision.console import Channel
from ray_st.runtime.supervision.run_monitor import GroupsBefore, RunMonitor
from ray_st.runtime.train import elastic, launch
from ray_st.runtime.train.elastic import (
    Reserve,
    ResizeAfterCheckpoint,
    answering,
    room,
    usable_nodes,
    workers_now,
)
from ray_st.runtime.train.ray_configs import scaling_config
from ray_st.runtime.tune.trial_resources import Need
from ray_st.tune.identity import most_workers

CPU = {"CPU": 1.0}
NODES = [
    {"NodeID": name, "Alive": name != "c", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1}
    for name in "abc"
]


def test_workers_start_on_nodes_that_stay() -> None:
    assert list(usable_nodes(NODES, {})) == ["a", "b"]
    assert usable_nodes(NODES, {"b": 0}) == {"a": ("127.0.0.1", 1)}


def test_a_node_that_takes_no_connection_is_lost_before_ray_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nodes = {"a": listening.getsockname(), "b": silent.getsockname()}
        assert list(answering(nodes)) == ["a"]
    assert answering({}) == {}


@pytest.mark.parametrize(
    ("free", "each", "held", "strategy", "expected"),
    [
        ({"a": {"CPU": 2.0}, "b": {"CPU": 1.0}}, CPU, {}, "PACK", 3),
        (
            {"a": {"CPU": 0.0}, "b": {"CPU": 1.0}},
            CPU,
            {"a": 2},
            "PACK",
            3,
        ),  # the present group's room is free soon
        ({"a": {}, "b": {}}, CPU, {}, "PACK", 0),  # used by others
        ({"b": {"CPU": 1.0}}, CPU, {"a": 1, "b": 1}, "PACK", 2),  # a is lost
        ({"a": {"CPU": 0.3 * 3}}, {"CPU": 0.3}, {}, "PACK", 3),
        ({"a": {"CPU": 8.0, "GPU": 2.0}}, {"CPU": 1, "GPU": 1}, {}, "PACK", 2),
        ({"a": {"CPU": 8.0, "GPU": 2.0}}, {"CPU": 1, "GPU": 0}, {}, "PACK", 8),
        ({"a": {"CPU": 2.0}, "b": {"CPU": 3.0}}, CPU, {}, "STRICT_PACK", 3),
        ({"a": {"CPU": 2.0}, "b": {"CPU": 3.0}}, CPU, {}, "STRICT_SPREAD", 2),
        ({"a": {"CPU": 2.0}, "b": {"CPU": 3.0}}, CPU, {}, "SPREAD", 5),
        ({"a": {"CPU": 2.0}}, {"CPU": 0}, {}, "PACK", None),
        ({}, CPU, {}, "STRICT_PACK", 0),
    ],
)
def test_room(free: Any, each: Any, held: Any, strategy: str, expected: int | None) -> None:
    assert room(free, each, held, strategy) == expected


@pytest.mark.parametrize(
    ("free", "each", "beside", "expected"),
    [
        ({"a": {"CPU": 2.0}, "b": {"CPU": 1.0}}, CPU, CPU, 2),
        (
            {"a": {"CPU": 4.0, "GPU": 1.0}, "b": {"CPU": 2.0}},
            CPU,
            {"GPU": 1},
            6,
        ),  # takes nothing from the workers
        ({"a": {"CPU": 4.0}, "b": {"CPU": 2.0}}, CPU, {"CPU": 3}, 3),  # only a has room
        ({"a": {"CPU": 3.0}, "b": {"CPU": 2.0}}, {"CPU": 2.0}, CPU, 2),  # on a, where it costs no worker
        ({"a": {"CPU": 2.0}}, CPU, {"slow": 1}, 2),  # it has to wait in any case
        ({}, CPU, CPU, 0),
    ],
)
def test_workers_leave_room_for_an_evaluation_beside_them(
    free: Any, each: Any, beside: Any, expected: int
) -> None:
    assert room(free, each, {}, "PACK", beside) == expected


@pytest.mark.parametrize(("state", "lacks"), [("ALIVE", {}), ("DEAD", {}), ("RESTARTING", CPU), (None, CPU)])
def test_a_process_that_runs_needs_no_reserve(
    monkeypatch: pytest.MonkeyPatch, state: Any, lacks: Any
) -> None:
    monkeypatch.setattr(elastic, "actors", lambda actor_id: {"State": state} if state else {})
    assert Reserve("12ab", CPU).lacking() == lacks


class Monitor:
    """A run's monitor that keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.said: list[Any] = []
        self.resize = SimpleNamespace(remote=self.asked.append)
        self.say = SimpleNamespace(remote=self.said.append)


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    """A cluster of two nodes with a free CPU each, without Ray."""
    monkeypatch.setattr(elastic.ray, "get", lambda reference: reference)
    monkeypatch.setattr(elastic.ray, "nodes", lambda: NODES)
    monkeypatch.setattr(elastic.cluster_state, "get_draining_nodes", dict)
    monkeypatch.setattr(elastic, "available_resources_per_node", lambda: {"a": CPU, "b": CPU})
    monkeypatch.setattr(elastic, "LOOK_S", 0.0)
    monkeypatch.setattr(elastic, "_answers", lambda address: True)
    return Monitor()


def policy(monitor: Monitor, **options: Any) -> Any:
    actor: Any = monitor
    channel = Channel(actor, "run", "json", all_ranks=False)
    return ResizeAfterCheckpoint(ScalingConfig(num_workers=(1, 4), **options), channel)


def deciding(monkeypatch: pytest.MonkeyPatch, *decisions: Any) -> None:
    each = iter(decisions)
    for method in ("make_decision_for_running_worker_group", "make_decision_for_non_running_worker_group"):
        monkeypatch.setattr(ElasticScalingPolicy, method, lambda self, *state: next(each))


def test_a_running_group_is_asked_to_leave_instead_of_being_replaced(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize, noop = ResizeDecision(2, CPU), NoopDecision()
    deciding(monkeypatch, noop, resize, resize, resize)
    ours = policy(monitor)
    state = SimpleNamespace(placement_group_handle=SimpleNamespace(placement_group=None))
    assert isinstance(ours.make_decision_for_running_worker_group(state, None), NoopDecision)
    assert monitor.asked == []
    assert isinstance(ours.make_decision_for_running_worker_group(state, None), NoopDecision)
    assert isinstance(ours.make_decision_for_running_worker_group(state, None), NoopDecision)
    assert monitor.asked == [True, True]
    assert ours.make_decision_for_non_running_worker_group() is resize
    assert monitor.asked == [True, True, False]  # taken back before the next group starts


def test_nothing_is_started_without_room_for_the_least(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resize, noop = ResizeDecision(1, CPU), NoopDecision()
    deciding(monkeypatch, noop, noop, resize, noop)
    ours = policy(monitor)
    for expected in (noop, noop, resize, noop):
        assert ours.make_decision_for_non_running_worker_group() is expected
    assert monitor.asked == [False]
    # Once, and once more after there was room.
    assert capsys.readouterr().out.splitlines() == ["waiting for room for 1 worker(s)"] * 2


def test_workers_are_counted_where_they_fit(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, reserved = policy(monitor), {"a": {"CPU": 2.0}, "b": {"CPU": 1.0}, "c": {"CPU": 1.0}}
    assert ours._count_possible_workers(reserved) == 2
    held = {"bundles_to_node_id": {0: "a", 1: "b"}}
    monkeypatch.setattr(elastic, "placement_group_table", lambda group: held)
    ours._group = object()
    assert ours._count_possible_workers(reserved) == 3  # Ray reserves no more on nodes that are there
    monkeypatch.setattr(elastic.cluster_state, "get_draining_nodes", lambda: {"a": 0})
    assert ours._count_possible_workers(reserved) == 1
    monkeypatch.setattr(elastic, "_answers", lambda address: False)
    assert ours._count_possible_workers(reserved) == 0
    ours._runs = True  # what runs is not asked
    assert ours._count_possible_workers(reserved) == 1
    monkeypatch.setattr(elastic, "actors", lambda actor_id: {"State": "PENDING_CREATION"})
    ours._reserve = Reserve("12ab", {"CPU": 2.0})
    assert ours._count_possible_workers(reserved) == 0


def test_a_short_task_has_the_workers_for_which_there_is_room(monitor: Monitor) -> None:
    assert workers_now(ScalingConfig(num_workers=(1, 4))) == 2
    assert workers_now(ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 0})) == 4
    for asked, given in ((3, 3), ((1, 4), 2), ((3, 4), 3), ((5, 5), 5)):
        assert launch.with_fixed_number(ScalingConfig(num_workers=asked)).num_workers == given


def test_a_range_of_one_number_is_that_number_for_trials() -> None:
    need = Need.of(ScalingConfig(num_workers=(3, 3)), None)
    assert need.workers == 3
    assert need.scaling == ScalingConfig(num_workers=3)
    assert most_workers(ScalingConfig(num_workers=(3, 3))) == 3
    assert most_workers(None) == 1


def test_the_controller_waits_less_for_a_placement_and_speaks_through_the_driver(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElasticScalingPolicy, "after_controller_start", lambda self, context: None)
    monkeypatch.delenv(elastic.START_TIMEOUT, raising=False)
    monkeypatch.setattr(elastic, "set_context", lambda **context: contexts.append(context))
    monkeypatch.setattr(elastic, "send_records_to", lambda send: send("an event"))
    contexts: list[Any] = []
    policy(monitor).after_controller_start(None)
    assert os.environ.pop(elastic.START_TIMEOUT) == str(elastic.PLACEMENT_S)
    assert (contexts, monitor.said) == ([{"run": "run"}], ["an event"])
    monkeypatch.setenv(elastic.START_TIMEOUT, "300")  # the user's
    policy(monitor).after_controller_start(None)
    assert os.environ[elastic.START_TIMEOUT] == "300"


def test_a_run_file_gives_the_least_and_the_greatest_number() -> None:
    found = scaling_config({"num_workers": [1, 4], "elastic_resize_monitor_interval_s": 20})
    assert found == ScalingConfig(num_workers=(1, 4), elastic_resize_monitor_interval_s=20)
    for wrong in ([0, 4], [4, 1], [1, 2.5], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"^num_workers: "):
            scaling_config({"num_workers": wrong})


def test_the_monitor_passes_on_that_workers_should_leave_and_remembers_their_number() -> None:
    async def run() -> None:
        monitor = RunMonitor("run")
        assert await monitor.group_started(2) == GroupsBefore(0, "unknown", 0)
        await monitor.resize(True)
        news = await monitor.news(0)
        assert news.resize
        await monitor.resize(True)  # asked again, and known
        assert (await monitor.news(0)).version == news.version
        await monitor.lost("resized")
        await monitor.resize(False)
        assert not (await monitor.news(0)).resize
        assert await monitor.group_started(3) == GroupsBefore(1, "resized", 2)

    asyncio.run(run())


@pytest.mark.parametrize(("raised", "kills"), [(None, 0), (RayActorError(), 0), (GetTimeoutError(), 1)])
def test_a_controller_that_only_waits_for_room_is_killed(
    monkeypatch: pytest.MonkeyPatch, raised: Exception | None, kills: int
) -> None:
    killed: list[Any] = []

    def get(reference: Any, timeout: float) -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(launch.ray, "get", get)
    monkeypatch.setattr(launch.ray, "kill", killed.append)
    controller: Any = SimpleNamespace(abort=SimpleNamespace(remote=lambda: None))
    launch._abort(controller)
    assert killed == [controller] * kills
