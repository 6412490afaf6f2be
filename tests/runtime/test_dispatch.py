"""What the arguments say of workers and of their process group."""

from __future__ import annotations

from typing import Any

import pytest
from ray.train import ScalingConfig

from ray_st import SentenceTransformerTrainingArguments
from ray_st.runtime import launch


def test_the_process_group_is_as_the_arguments_want_it() -> None:
    args = SentenceTransformerTrainingArguments("out", ddp_backend="gloo", ddp_timeout=60)
    group = launch.process_group(args)
    assert (group.backend, group.timeout_s) == ("gloo", 60)
    group = launch.process_group(SentenceTransformerTrainingArguments("out"))
    assert (group.backend, group.timeout_s) == (None, 1800)


def test_who_wants_cpus_gets_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = ScalingConfig(num_workers=3, use_gpu=True)
    monkeypatch.setattr(launch, "default_scaling", lambda: found)
    assert launch.resolve_scaling(None) is found
    assert launch.resolve_scaling(None, use_cpu=True).num_workers == 1
    assert not launch.resolve_scaling(None, use_cpu=True).use_gpu
    with pytest.raises(ValueError, match="contradict each other"):
        launch.resolve_scaling(found, use_cpu=True)
