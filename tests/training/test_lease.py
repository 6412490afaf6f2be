from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_st.training.checkpoint import lease
from ray_st.training.checkpoint.lease import Fence, Holder, RunInUse, check_free, held
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.endings import LeaseLost


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "run"))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def hold(store: CheckpointStore, **pace: float) -> Any:
    return held(store, **{"beat_s": 0.01, "poll_s": 0.01, "settle_s": 0.0, **pace})


def test_a_held_folder_is_refused_with_the_remedy(store: CheckpointStore) -> None:
    with hold(store), pytest.raises(RunInUse, match=r"in use.*output_dir"):
        check_free(store, stale_s=5.0, poll_s=0.01)
    check_free(store)  # released at once


def test_a_holder_elsewhere_without_a_sign_of_life_is_gone(store: CheckpointStore) -> None:
    lease.write(store, replace(Holder.here(), host="elsewhere"))
    check_free(store, stale_s=0.05, poll_s=0.01)


def test_an_ended_process_of_this_machine_is_gone_at_once(store: CheckpointStore) -> None:
    lease.write(store, replace(Holder.here(), pid=ended_process()))
    check_free(store, stale_s=1000.0)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"owner": 1}', b"\xff\x00"])
def test_a_torn_lease_is_waited_for(store: CheckpointStore, text: bytes) -> None:
    """Where writes are not atomic it is being written, and its holder lives; otherwise a crash tore it."""
    Path(store.path).mkdir()
    file = Path(store.location(lease.LEASE))
    file.write_bytes(text)
    fence = Fence(store.path, store.filesystem, "mine")
    fence.check()  # nobody is known to have taken the folder
    check_free(store, stale_s=0.05, poll_s=0.01)
    threading.Timer(0.05, lease.write, (store, Holder.here())).start()
    with pytest.raises(RunInUse):
        check_free(store, stale_s=60.0, poll_s=0.01)


def test_nobody_reads_half_a_lease(store: CheckpointStore) -> None:
    over, found = threading.Event(), []
    lease.write(store, Holder.here())

    def look() -> None:
        while not over.is_set():
            found.append(lease.read(store))

    reader = threading.Thread(target=look)
    reader.start()
    for beat in range(300):
        lease.write(store, replace(Holder.here(), beat=beat))
    over.set()
    reader.join()
    assert {type(holder) for holder in found} == {Holder}
    assert all(holder.host for holder in found if holder)
    assert [file.name for file in Path(store.path).iterdir()] == [lease.LEASE]


def test_of_two_that_start_at_the_same_moment_one_stays(store: CheckpointStore) -> None:
    start, outcomes = threading.Barrier(2), []

    def begin() -> None:
        start.wait()
        try:
            with hold(store, settle_s=0.2, stale_s=5.0):
                outcomes.append("held")
                ended.wait()
        except RunInUse:
            outcomes.append("refused")
            ended.set()

    ended = threading.Event()
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused"]


def test_who_loses_the_folder_is_told_and_leaves_it_alone(store: CheckpointStore) -> None:
    lost = threading.Event()
    other = Holder.here()
    with hold(store) as mine:
        mine.when_lost(lost.set)
        lease.write(store, other)
        assert lost.wait(10)
        later = threading.Event()
        mine.when_lost(later.set)
        assert later.is_set()
    found = lease.read(store)
    assert found is not None
    assert found.owner == other.owner


def test_a_fence_stays_closed_when_the_other_one_is_done(store: CheckpointStore) -> None:
    """The holder was stopped, another one came and went: nothing in the folder is its own any more."""
    with hold(store, beat_s=3600.0) as stopped:
        lease.write(store, replace(Holder.here(), released=True))
        with pytest.raises(LeaseLost, match=r"was taken by process \d+ on"):
            pickle.loads(pickle.dumps(stopped.fence)).check()
    found = lease.read(store)
    assert found is not None
    assert found.owner != stopped.fence.owner
    with hold(store) as next_one:
        next_one.fence.check()


def test_storage_that_is_away_for_a_while_costs_nothing(store: CheckpointStore, tmp_path: Path) -> None:
    with hold(store) as mine:
        mine.when_lost(pytest.fail)
        Path(store.path).rename(tmp_path / "away")
        Path(store.path).write_text("not a folder: every access fails")
        assert _beats(tmp_path / "away") == _beats(tmp_path / "away")
        Path(store.path).unlink()
        (tmp_path / "away").rename(store.path)
        before = lease.read(store)
        _wait_for(lambda: lease.read(store) != before)
        found = lease.read(store)
        assert found is not None
        assert found.owner == mine.fence.owner


def _beats(folder: Path) -> str:
    return (folder / lease.LEASE).read_text()


def _wait_for(true: Any) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if true():
            return
        pause.wait(0.01)
    pytest.fail("waited in vain")
