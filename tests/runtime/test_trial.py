"""A trial's folder and its reports, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.train import RunConfig

from ray_st.runtime.tuning import search_store
from ray_st.runtime.tuning_trial import TrialKit
from ray_st.training.checkpoint import CheckpointStore


def kit(store: CheckpointStore, search_id: str) -> TrialKit:
    nothing: Any = None
    return TrialKit(nothing, nothing, nothing, store, search_id)


def test_a_trial_passes_over_the_checkpoints_of_an_earlier_search(tmp_path: Path) -> None:
    earlier, now = (kit(CheckpointStore(str(tmp_path)), name).trial_store(0) for name in ("s-1", "s-2"))
    earlier.seal(earlier.begin(5))
    assert earlier.path == now.path
    assert earlier.newest(earlier.run_id) is not None
    assert now.newest(now.run_id) is None


def test_searches_of_a_name_share_no_folder_of_a_storage(tmp_path: Path) -> None:
    def path(search_id: str, run_config: RunConfig | None) -> str:
        return search_store(run_config, tmp_path / "out" / "s", search_id).path

    there = RunConfig(storage_path=str(tmp_path / "storage"))
    assert path("1", there) == f"{tmp_path}/storage/searches/s/1"
    assert path("2", there) == f"{tmp_path}/storage/searches/s/2"
    assert path("", there) == f"{tmp_path}/storage/searches/s"  # begun by an earlier version
    assert path("1", None) == f"{tmp_path}/out/s"
