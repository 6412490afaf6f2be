from __future__ import annotations

import gc
import gzip
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from torch import Tensor
from transformers.trainer_utils import rotate_checkpoints

from ray_st.training.checkpoint import lease
from ray_st.training.checkpoint.contents import (
    load_random_states,
    random_state_files,
    random_states,
    save_states,
)
from ray_st.training.checkpoint.lease import Holder, held
from ray_st.training.checkpoint.store import MANIFEST, CheckpointError, CheckpointStore
from ray_st.util.endings import LeaseLost


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    """A run's folder on a local disk, and on a file system that must be written through its interface."""
    if request.param == "local":
        return CheckpointStore(str(tmp_path / "run"), run_id="mine")
    (tmp_path / "bucket").mkdir()
    bucket = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    return CheckpointStore("some/run", bucket, "mine")


def root(store: CheckpointStore) -> Path:
    """Where its files lie on this disk."""
    return Path(store.path) if store.is_local else Path(store.filesystem.base_path) / store.path


def write(store: CheckpointStore, step: int, weights: str = "weights", **facts: Any) -> Any:
    folder = store.begin(step)
    (folder / "0_Part").mkdir()
    (folder / "0_Part" / "model.safetensors").write_text(weights)
    (folder / "trainer_state.json").write_text(f"{step}")
    (folder / "empty").write_text("")
    return store.seal(folder, **facts)


def test_a_sealed_checkpoint_is_complete(store: CheckpointStore) -> None:
    assert not CheckpointStore(store.path, store.filesystem).steps()
    found = write(store, 20, epoch=0.5, seed=3)
    assert (found.name, found.step) == ("checkpoint-20", 20)
    assert found.manifest["run_id"] == "mine"
    assert (found.manifest["epoch"], found.manifest["seed"]) == (0.5, 3)
    assert set(found.manifest["files"]) == {"0_Part/model.safetensors", "trainer_state.json", "empty"}
    assert store.check(found.name) == store.newest() == found
    folder = store.fetch(found.name)
    assert (folder / "0_Part" / "model.safetensors").read_text() == "weights"
    assert (root(store) / found.name / MANIFEST).is_file()


def test_the_manifest_is_written_last(store: CheckpointStore) -> None:
    folder = store.begin(1)
    (folder / "weights").write_text("w")
    assert not (folder / MANIFEST).exists()
    store.seal(folder)
    times = {file.name: file.stat().st_mtime_ns for file in (root(store) / "checkpoint-1").iterdir()}
    assert max(times.values()) == times[MANIFEST]


def test_files_that_are_compressed_are_hashed_as_they_are(store: CheckpointStore) -> None:
    folder = store.begin(2)
    (folder / "vocabulary.json.gz").write_bytes(gzip.compress(b"{}"))  # a tokenizer's own file
    sealed = store.seal(folder)
    assert store.check("checkpoint-2") == sealed


def spoil_nothing_there(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def spoil_torn_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def spoil_empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"")


def spoil_binary_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\x00\xfe")


def spoil_other_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1, 2]")


def spoil_other_keys(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"files": {}}))


def spoil_missing_file(folder: Path) -> None:
    (folder / "0_Part" / "model.safetensors").unlink()


def spoil_short_file(folder: Path) -> None:
    (folder / "0_Part" / "model.safetensors").write_text("weight")


def spoil_changed_byte(folder: Path) -> None:
    (folder / "0_Part" / "model.safetensors").write_text("weighty")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing_there, "no manifest.json, which is written last"),
        (spoil_torn_manifest, "manifest.json is damaged"),
        (spoil_empty_manifest, "manifest.json is damaged"),
        (spoil_binary_manifest, "manifest.json is damaged"),
        (spoil_other_json, "is no manifest"),
        (spoil_other_keys, "is no manifest"),
        (spoil_missing_file, "model.safetensors is damaged: expected 7 bytes, found no such file"),
        (spoil_short_file, "model.safetensors is damaged: expected 7 bytes, found 6 bytes"),
        (spoil_changed_byte, "model.safetensors is damaged: its hash"),
    ],
)
def test_incomplete_and_damaged_ones_are_passed_over(
    store: CheckpointStore, spoil: Any, message: str
) -> None:
    write(store, 9)
    write(store, 10)
    spoil(root(store) / "checkpoint-10")
    with pytest.raises(CheckpointError, match=message) as error:
        store.check("checkpoint-10")
    assert "checkpoint-10" in str(error.value)
    assert "Choose an earlier checkpoint" in str(error.value)
    skipped: list[str] = []
    newest = store.newest(skipped=skipped)
    assert newest is not None
    assert newest.step == 9
    assert skipped == [str(error.value)]


def test_checkpoints_of_other_runs_are_not_adopted(store: CheckpointStore) -> None:
    write(store, 10)
    other = CheckpointStore(store.path, store.filesystem, "other")
    assert other.newest("other") is None
    write(other, 5)
    assert other.newest("other").step == 5  # type: ignore[union-attr]
    assert other.newest("mine").step == 10  # type: ignore[union-attr]
    assert other.newest().step == 10  # type: ignore[union-attr]


def test_steps_are_numbers_in_order(store: CheckpointStore) -> None:
    for step in (9, 100, 20):
        write(store, step)
    (root(store) / "checkpoint-best").mkdir()
    (root(store) / "checkpoint-²").mkdir()
    (root(store) / "eval").mkdir()
    (root(store) / "checkpoint-7").write_text("a file")
    assert store.steps() == [9, 20, 100]


def test_a_step_that_is_reached_again_replaces_its_checkpoint(store: CheckpointStore) -> None:
    folder = store.begin(10)
    (folder / "rng_state_1.pth").write_text("of a second worker")
    store.seal(folder)
    folder = store.begin(10)
    assert list(folder.iterdir()) == []
    assert store.newest() is None  # what is being replaced is not complete
    (folder / "rng_state.pth").write_text("of one")
    store.seal(folder)
    assert {file.name for file in (root(store) / "checkpoint-10").iterdir()} == {"rng_state.pth", MANIFEST}
    assert store.newest() is not None


def test_a_half_deleted_checkpoint_is_incomplete(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, 1)
    write(store, 2)

    class Dying:
        """A file system whose process is killed when it deletes a folder."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store.filesystem, name)

        def delete_dir(self, path: str) -> None:
            raise KeyboardInterrupt

    dying = CheckpointStore(store.path, Dying(), "mine")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        dying.delete(2)
    assert (root(store) / "checkpoint-2" / "trainer_state.json").exists()
    assert store.newest().step == 1  # type: ignore[union-attr]
    store.delete(2)
    assert store.steps() == [1]


@pytest.mark.parametrize("best", [None, 10, 20, 40, 99])
@pytest.mark.parametrize("keep", [None, 0, 1, 2, 3, 9])
def test_rotation_keeps_what_transformers_keeps(
    store: CheckpointStore, tmp_path: Path, keep: int | None, best: int | None
) -> None:
    theirs = tmp_path / "theirs"
    for step in (10, 20, 30, 40):
        write(store, step)
        (theirs / f"checkpoint-{step}").mkdir(parents=True)
    deleted = store.rotate(keep, best)
    known = str(theirs / f"checkpoint-{best}") if best in (10, 20, 30, 40) else None
    rotate_checkpoints(str(theirs), keep, known)
    left = sorted(int(folder.name.split("-")[1]) for folder in theirs.iterdir())
    assert store.steps() == left
    assert sorted(deleted + left) == [10, 20, 30, 40]
    assert all(store.check(f"checkpoint-{step}") for step in left)


def test_rotation_never_deletes_the_newest_complete_one_for_an_incomplete_one(store: CheckpointStore) -> None:
    for step in (10, 20, 30):
        write(store, step)
    (root(store) / "checkpoint-30" / MANIFEST).unlink()  # a worker died while it wrote
    restarted = CheckpointStore(store.path, store.filesystem, "mine")
    assert restarted.rotate(1, None) == [30, 10]
    assert restarted.steps() == [20]


def test_rotation_keeps_what_this_run_wrote_last_beside_later_steps_of_an_earlier_run(
    store: CheckpointStore,
) -> None:
    write(store, 500)
    later = CheckpointStore(store.path, store.filesystem, "later")
    write(later, 10)
    assert later.rotate(1, None) == [500]
    assert later.steps() == [10]


def test_what_is_fetched_from_afar_is_checked_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    bucket = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    store = CheckpointStore("run", bucket, "mine")
    write(store, 3)
    assert list(store.local.iterdir()) == []  # nothing stays behind once it is uploaded
    folder = store.fetch("checkpoint-3")
    assert store.fetch("checkpoint-3") == folder
    assert tmp_path not in folder.parents
    write(store, 3, weights="others!")
    assert (store.fetch("checkpoint-3") / "0_Part" / "model.safetensors").read_text() == "others!"


def test_each_process_has_its_own_folder_for_files_on_their_way(store: CheckpointStore) -> None:
    write(store, 1)
    store.fetch("checkpoint-1")
    other = pickle.loads(pickle.dumps(store))
    assert other.newest() == store.newest()
    assert store.is_local or other.local != store.local


def test_files_on_their_way_are_gone_with_the_store(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    store = CheckpointStore("run", pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem()))
    scratch = store.begin(1).parent
    assert scratch.exists()
    del store
    gc.collect()
    assert not scratch.exists()


def test_another_runs_checkpoint_becomes_this_ones(store: CheckpointStore) -> None:
    other = CheckpointStore(store.location("other"), store.filesystem, "other")
    write(other, 20, "better", epoch=0.5)
    write(store, 10)
    write(store, 20)
    found = store.adopt(other, 20)
    assert store.steps() == [20]
    assert store.newest("mine") == found
    assert (found.manifest["run_id"], found.manifest["copied_from"]) == ("mine", "other")
    assert found.manifest["epoch"] == 0.5
    assert (store.fetch(found.name) / "0_Part" / "model.safetensors").read_text() == "better"
    other.delete(20)
    assert store.check(found.name) == found
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        store.adopt(other, 20)
    assert store.steps() == [20]


def test_who_lost_the_folder_writes_and_deletes_nothing(store: CheckpointStore) -> None:
    """Any process that has a copy of the store: a worker of a driver that was stopped and taken over."""
    with held(store, beat_s=3600.0, settle_s=0.0) as mine:
        fenced = pickle.loads(pickle.dumps(replace(store, fence=mine.fence)))
        write(fenced, 1)
        begun = fenced.begin(2)
        (begun / "weights").write_text("w")
        lease.write(store, Holder.here())
        writer: Any
        for writer in (
            lambda: fenced.seal(begun),
            lambda: fenced.begin(1),
            lambda: fenced.delete(1),
            lambda: fenced.adopt(store, 1),
        ):
            with pytest.raises(LeaseLost, match="taken by process"):
                writer()
    assert store.newest().step == 1  # type: ignore[union-attr]
    assert not (root(store) / "checkpoint-2" / MANIFEST).exists()
    assert store.is_local or not (root(store) / "checkpoint-2").exists(), "nothing is uploaded"


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen(tmp_path: Path) -> None:
    """Whatever it hits, the checkpoint is passed over with a reason; never a raw error, never other facts."""
    store = CheckpointStore(str(tmp_path / "run"), run_id="mine")
    write(store, 9)
    write(store, 10, epoch=0.5, data={"rows": 12})
    file = root(store) / "checkpoint-10" / MANIFEST
    whole = file.read_bytes()
    said = json.loads(whole)
    for place in range(len(whole)):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << place % 8
        file.write_bytes(harmed)
        skipped: list[str] = []
        newest = store.newest(skipped=skipped)
        assert newest is not None
        same = newest.step == 10 and {**newest.manifest, "xxh3": said["xxh3"]} == said
        assert same or (newest.step == 9 and "Choose an earlier checkpoint" in skipped[0]), harmed


@pytest.mark.parametrize(
    "files", [[], {"a": 1}, {"a": {"size": "1", "xxh3": ""}}, {"a": {"xxh3": ""}}, {"a": {"size": 1}}]
)
def test_a_manifest_of_an_earlier_version_is_taken_if_it_has_the_form_of_one(
    store: CheckpointStore, files: Any
) -> None:
    write(store, 1)
    file = root(store) / "checkpoint-1" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["xxh3"]
    file.write_text(json.dumps({**manifest, "format": 1}))
    assert store.check("checkpoint-1").step == 1
    file.write_text(json.dumps({**manifest, "format": 1, "files": files}))
    with pytest.raises(CheckpointError, match="is no manifest"):
        store.check("checkpoint-1")
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="its hash is not"):
        store.check("checkpoint-1")


def test_the_gpus_state_is_that_of_the_ranks_own_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretended second device of four; checkpoints of earlier versions hold the states of all of them."""
    taken: list[Tensor] = []
    device = torch.tensor([7, 7], dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: device)
    monkeypatch.setattr(torch.cuda, "set_rng_state", taken.append)
    states = random_states()
    save_states(tmp_path, random_state_files([states]))
    load_random_states(str(tmp_path), 0)
    earlier = [torch.full((2,), number, dtype=torch.uint8) for number in range(4)]
    save_states(tmp_path, random_state_files([{**states, "cuda": earlier}]))
    load_random_states(str(tmp_path), 0)
    assert [tensor.tolist() for tensor in taken] == [[7, 7], [1, 1]]
