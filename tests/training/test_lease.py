from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_st.training import lease
from ray_st.training.checkpoint import CheckpointStore
from ray_st.training.lease import Holder, RunInUse, check_free, held


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "run"))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_held_folder_is_refused_with_the_cure(store: CheckpointStore) -> None:
    with held(store, on_lost=pytest.fail, beat_s=0.02), pytest.raises(RunInUse, match=r"in use.*output_dir"):
        check_free(store, stale_s=5.0, poll_s=0.01)
    check_free(store)  # released at once


def test_a_holder_elsewhere_without_a_sign_of_life_is_gone(store: CheckpointStore) -> None:
    lease.write(store, replace(Holder.here(), host="elsewhere"))
    check_free(store, stale_s=0.05, poll_s=0.01)


def test_an_ended_process_of_this_machine_is_gone_at_once(store: CheckpointStore) -> None:
    lease.write(store, replace(Holder.here(), pid=ended_process()))
    check_free(store, stale_s=1000.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": 1}'])
def test_a_torn_lease_is_none(store: CheckpointStore, text: str) -> None:
    Path(store.path).mkdir()
    Path(store.location(lease.LEASE)).write_text(text)
    assert lease.read(store) is None
    check_free(store)


def test_who_loses_the_folder_is_told_and_leaves_it_alone(store: CheckpointStore) -> None:
    lost = threading.Event()
    other = Holder.here()
    with held(store, on_lost=lost.set, beat_s=0.01):
        lease.write(store, other)
        assert lost.wait(10)
    found = lease.read(store)
    assert found is not None
    assert found.owner == other.owner


def test_storage_that_is_away_for_a_while_costs_nothing(store: CheckpointStore, tmp_path: Path) -> None:
    with held(store, on_lost=pytest.fail, beat_s=0.01) as holder:
        Path(store.path).rename(tmp_path / "away")
        Path(store.path).write_text("not a folder: every access fails")
        assert _beats(tmp_path / "away") == _beats(tmp_path / "away")
        Path(store.path).unlink()
        (tmp_path / "away").rename(store.path)
        before = lease.read(store)
        _wait_for(lambda: lease.read(store) != before)
        found = lease.read(store)
        assert found is not None
        assert found.owner == holder.owner


def _beats(folder: Path) -> str:
    return (folder / lease.LEASE).read_text()


def _wait_for(true: Any) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if true():
            return
        pause.wait(0.01)
    pytest.fail("waited in vain")
