"""Which checkpoint a run starts from, and what happens to what an earlier run left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from ray_st.training.checkpoint.resume import (
    FIRST_EPOCH,
    Start,
    bring_ledger,
    check_fingerprint,
    check_settings,
    differences,
    find_checkpoint,
    set_aside,
)
from ray_st.training.checkpoint.sample_log import LEDGER, SampleLog, read_ledger
from ray_st.training.checkpoint.store import MANIFEST, STATES, CheckpointError, CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "run"), run_id="mine")


@pytest.fixture
def remote(tmp_path: Path) -> CheckpointStore:
    (tmp_path / "bucket").mkdir()
    return CheckpointStore(
        "run", pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem()), "mine"
    )


def write(store: CheckpointStore, step: int, without: str = "", **facts: Any) -> str:
    folder = store.begin(step)
    for name in {*STATES, "trainer_state.json", "model.safetensors"} - {without}:
        (folder / name).write_text(f"{name} of step {step}")
    return store.location(store.seal(folder, **facts).name)


def steps(path: str | Path) -> list[int]:
    return [line["step"] for line in read_ledger(path)]


def entries(store: CheckpointStore, folder: str = "") -> list[str]:
    infos = store.filesystem.get_file_info(pafs.FileSelector(f"{store.path}/{folder}"))
    return sorted(info.base_name for info in infos)


# ---- which checkpoint ----


def test_the_newest_or_one_by_its_path(store: CheckpointStore, tmp_path: Path) -> None:
    assert find_checkpoint(store, None).begins_anew
    first, second = write(store, 1), write(store, 2)
    assert find_checkpoint(store, True).name == "checkpoint-2"
    by_path = find_checkpoint(store, first)
    assert (by_path.name, by_path.path) == ("checkpoint-1", None)
    assert find_checkpoint(store, f"{store.path}/../run/checkpoint-2").name == "checkpoint-2"
    other = CheckpointStore(str(tmp_path / "other"))
    found = find_checkpoint(other, second)
    assert (found.name, found.path, found.manifest["step"]) == (None, second, 2)
    assert not found.begins_anew


@pytest.mark.parametrize("lacking", STATES)
def test_a_checkpoint_without_states_is_not_gone_on_from(store: CheckpointStore, lacking: str) -> None:
    write(store, 1)
    path = write(store, 2, without=lacking)
    assert find_checkpoint(store, True).name == "checkpoint-1"
    message = rf"holds no {lacking} .*resume_only_model=True to begin a new run, at step 0"
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(store, path)
    store.delete(1)
    with pytest.raises(CheckpointError, match=f"found no complete checkpoint.*{message}"):
        find_checkpoint(store, True)
    for wanted in (True, path):
        asked = find_checkpoint(store, wanted, only_model=True)
        assert (asked.name, asked.only_model, asked.begins_anew) == ("checkpoint-2", True, True)


def test_a_checkpoint_without_a_manifest_is_another_programs_or_incomplete(
    store: CheckpointStore, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs" / "checkpoint-5"
    theirs.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        find_checkpoint(store, str(theirs))
    for name in ("trainer_state.json", *STATES):
        (theirs / name).write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"has no manifest.json.*another program.*resume_only_model=True"
    ):
        find_checkpoint(store, str(theirs))
    asked = find_checkpoint(store, str(theirs), only_model=True)
    assert (asked.path, asked.only_model) == (str(theirs), True)
    with pytest.raises(CheckpointError, match="no folder there"):
        find_checkpoint(store, str(tmp_path / "nowhere"), only_model=True)


# ---- what an earlier run left ----


@pytest.mark.parametrize("where", ["store", "remote"])
def test_a_run_that_begins_anew_sets_all_aside(where: str, request: Any, capsys: Any) -> None:
    store: CheckpointStore = request.getfixturevalue(where)
    for step in (5, 10, 15):
        write(store, step)
    with store.filesystem.open_output_stream(store.location(LEDGER)) as stream:
        stream.write(b'{"step": 1, "rows": [[1]]}\n')
    assert set_aside(store, Start()) == Start()
    said = capsys.readouterr().out
    assert f"3 checkpoint(s), the newest of step 15, are set aside in {store.path}/earlier-1" in said
    assert "begins anew" in said
    assert store.steps() == []
    assert entries(store, "earlier-1") == ["checkpoint-10", "checkpoint-15", "checkpoint-5", LEDGER]
    aside = CheckpointStore(store.location("earlier-1"), store.filesystem)
    assert [aside.check(f"checkpoint-{step}").step for step in aside.steps()] == [5, 10, 15]
    with pytest.raises(
        CheckpointError, match=r"It holds no checkpoint\. .*earlier-1 holds what an earlier run left"
    ):
        find_checkpoint(store, True)
    write(store, 5)
    set_aside(store, Start())
    assert entries(store, "earlier-2") == ["checkpoint-5"]
    set_aside(store, Start())
    assert entries(store) == ["earlier-1", "earlier-2"]


def test_a_run_that_goes_on_from_the_newest_has_nothing_in_its_way(store: CheckpointStore) -> None:
    write(store, 5)
    store.begin(10)  # of a run that was killed while it wrote
    SampleLog(store.location(LEDGER)).write(1, [[1]])
    start = find_checkpoint(store, True)
    assert set_aside(store, start) is start
    assert entries(store) == ["checkpoint-10", "checkpoint-5", LEDGER]


def test_a_run_that_goes_on_from_an_earlier_one_sets_the_later_ones_aside(store: CheckpointStore) -> None:
    ledger = SampleLog(store.location(LEDGER))
    for step in range(1, 16):
        ledger.write(step, [[step]])
        if step % 5 == 0:
            write(store, step)
    start = find_checkpoint(store, store.location("checkpoint-5"))
    assert set_aside(store, start) is start
    ledger.rewind(5)
    assert store.steps() == [5]
    assert entries(store, "earlier-1") == ["checkpoint-10", "checkpoint-15", LEDGER]
    assert steps(ledger.path) == [1, 2, 3, 4, 5]
    assert steps(store.location(f"earlier-1/{LEDGER}")) == list(range(1, 16))
    assert find_checkpoint(store, True).name == "checkpoint-5"


def test_what_was_set_aside_can_be_gone_on_from_with_its_ledger(store: CheckpointStore) -> None:
    """The case of a run that was begun anew by mistake, and killed: its lines and the earlier run's are never mixed."""
    ledger = SampleLog(store.location(LEDGER))
    write(store, 15)
    for step in range(1, 16):
        ledger.write(step, [[step]])
    set_aside(store, Start())
    ledger.rewind(0)
    for step in range(1, 9):
        ledger.write(step, [[100 + step]])
    start = find_checkpoint(store, store.location("earlier-1/checkpoint-15"))
    assert set_aside(store, start) is start
    bring_ledger(store, start)
    ledger.rewind(15)
    assert [line["rows"] for line in read_ledger(ledger.path)] == [[[step]] for step in range(1, 16)]
    assert steps(store.location(f"earlier-2/{LEDGER}")) == list(range(1, 9))


def test_a_new_run_with_the_weights_of_a_checkpoint_that_is_set_aside(store: CheckpointStore) -> None:
    write(store, 5)
    start = set_aside(store, find_checkpoint(store, True, only_model=True))
    assert start.name == "earlier-1/checkpoint-5"
    assert (store.fetch(str(start.name)) / "model.safetensors").read_text() == "model.safetensors of step 5"
    assert set_aside(store, start) is start


# ---- does the run fit? ----

THEN = {"seed": 1, "a: rows": 9, "batch sampler": "one", FIRST_EPOCH: "aa"}


def started(facts: Any) -> Start:
    return Start(name="checkpoint-5", manifest={"data": facts})


def test_what_differs_is_named_old_and_new() -> None:
    now = {**THEN, "seed": 2, "batch sampler": "two", FIRST_EPOCH: "bb"}
    assert differences(THEN, now) == ["seed: 1 then, 2 now", "batch sampler: one then, two now"]
    with pytest.raises(
        CheckpointError, match=r"batch sampler: one then, two now\. Resume with .*ignore_data_skip=True"
    ):
        check_settings(started(THEN), {"batch sampler": "two"})
    check_settings(started(THEN), {"batch sampler": "one", "not noted then": 3})
    check_fingerprint(started(THEN), THEN)
    check_fingerprint(started({}), THEN)


def test_a_sampler_whose_code_has_changed_is_seen_by_what_it_makes() -> None:
    with pytest.raises(CheckpointError, match="has the code of a sampler changed"):
        check_fingerprint(started(THEN), {**THEN, FIRST_EPOCH: "bb"})


def test_what_an_earlier_version_did_not_note_is_said(capsys: Any) -> None:
    then = {"seed": 1, "a: rows": 9}
    check_fingerprint(started(then), THEN)
    assert f"did not note batch sampler, {FIRST_EPOCH}" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="b: rows: None then, 4 now"):
        check_fingerprint(started(then), {**THEN, "b: rows": 4})


def test_weights_alone_fit_any_data(store: CheckpointStore) -> None:
    check_fingerprint(Start(name="checkpoint-5", manifest={"data": THEN}, only_model=True), {"seed": 3})


def test_a_damaged_manifest_is_refused_by_path(store: CheckpointStore) -> None:
    path = Path(write(store, 5))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "step": 6}))
    with pytest.raises(CheckpointError, match="its hash is not"):
        find_checkpoint(store, str(path))
