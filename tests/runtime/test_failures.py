"""What lost workers were lost to."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train import ControllerError, RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.worker_group.poll import _is_preempted_actor

from ray_st.runtime.supervision.failures import Resized, RunStopped, cause_of
from ray_st.runtime.supervision.ray_callbacks import StopAtRepeatableErrors
from ray_st.runtime.supervision.run_monitor import CAUSES
from ray_st.runtime.train import launch
from ray_st.util.endings import HangError, Interrupted, Moved, PeerError, PeerFailure, Why


def died(text: str, preempted: bool = False) -> Exception:
    lost = RayActorError(error_msg=text, preempted=preempted)
    return WorkerHealthCheckFailedError("health check failed", lost)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (died("The actor is dead because its worker process has died."), "process"),
        (died("The actor died because its node has died. Node Id: 12ab"), "node"),
        (died("The actor died because its node has died.", preempted=True), "preempted"),
        (Moved(Why.PREEMPTED, "stopped"), "preempted"),
        (Moved(Why.LEAVE, "stopped"), "moved"),
        (Resized("stopped"), "resized"),
        (HangError("rank 0 waited"), "hang"),
        (RuntimeError("Connection closed by peer"), "error"),
    ],
)
def test_causes(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
    assert cause in CAUSES


def test_ray_train_counts_a_resize_with_preemptions_not_with_failures() -> None:
    error = pickle.loads(pickle.dumps(Resized("the number of workers changes")))
    assert (str(error), error.preempted) == ("the number of workers changes", True)
    assert _is_preempted_actor(error)


def test_an_error_that_another_rank_tells_of_counts_as_that_ranks() -> None:
    stop = StopAtRepeatableErrors()
    told = PeerError([PeerFailure.of(1, OSError("away")), PeerFailure.of(2, ValueError("the disk is full"))])
    told = pickle.loads(pickle.dumps(told))
    assert str(told) == "rank 1 failed: OSError: away; rank 2 failed: ValueError: the disk is full"
    with pytest.raises(RunStopped, match=r"^rank 2: ValueError: the disk is full"):
        stop.after_exception(None, {0: told})
    stop.after_exception(None, {0: PeerError([PeerFailure.of(1, OSError("away"))])})


def test_a_run_that_was_told_to_stop_is_not_started_again() -> None:
    stop = StopAtRepeatableErrors()
    with pytest.raises(Interrupted, match="after step 5"):
        stop.after_exception(None, {1: RuntimeError("closed"), 2: Interrupted("stopped after step 5")})
    stop.after_exception(None, {0: Moved(Why.LEAVE, "stopped"), 1: HangError("hung"), 2: died("lost")})


@pytest.mark.parametrize(
    ("met", "raised"),
    [
        (FileNotFoundError("storage is away"), Interrupted),
        (Interrupted("stopped after step 5"), Interrupted),
        (TypeError("a callback's mistake"), ControllerError),
    ],
)
def test_errors_of_the_controller(
    monkeypatch: pytest.MonkeyPatch, met: Exception, raised: type[Exception]
) -> None:
    class Trainer:
        def __init__(self, *args: Any, **options: Any) -> None: ...

        def fit(self) -> None:
            raise ControllerError(met)

    monkeypatch.setattr(launch, "_Trainer", Trainer)
    monkeypatch.setattr(launch, "PickledRef", lambda task: task)  # the real one starts Ray
    with pytest.raises(raised, match=str(met)):
        launch.run_workers(lambda: None, ScalingConfig(num_workers=1), RunConfig())
