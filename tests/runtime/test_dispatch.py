"""What the arguments say of workers."""

from __future__ import annotations

from typing import Any

import pytest
from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_st.runtime.train import launch


def test_who_wants_cpus_gets_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = ScalingConfig(num_workers=3, use_gpu=True)
    monkeypatch.setattr(launch, "default_scaling", lambda: found)
    assert launch.resolve_scaling(None) is found
    assert launch.resolve_scaling(None, use_cpu=True).num_workers == 1
    assert not launch.resolve_scaling(None, use_cpu=True).use_gpu
    with pytest.raises(ValueError, match="contradict each other"):
        launch.resolve_scaling(found, use_cpu=True)


@pytest.mark.parametrize(
    ("given", "storage", "name"),
    [
        (None, "/a", "out"),
        ({}, "/a", "out"),
        ({"failure_config": FailureConfig(max_failures=1)}, "/a", "out"),
        ({"storage_path": "/s"}, "/s", "out"),
        ({"storage_path": "s3://bucket/runs", "name": "n"}, "s3://bucket/runs", "n"),
        ({"name": "n"}, "/a", "n"),
    ],
)
def test_a_run_is_kept_under_a_name_that_is_found_again(given: Any, storage: str, name: str) -> None:
    """Ray fills in a folder of its own, and a name made of the time, where the user gave none."""
    run_config = None if given is None else RunConfig(**given)
    complete = launch.complete_run_config(run_config, "/a/out")
    assert (complete.storage_path, complete.name) == (storage, name)
