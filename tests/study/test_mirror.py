"""The copy of a search's records in a storage: what reaches it, and what another machine makes of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_st.study.journal import JOURNAL, Journal, RecordError
from ray_st.study.journal_pieces import Piece, Pieces, chain
from ray_st.study.mirror import PIECES, Home, Mirror, fetch
from ray_st.study.search_settings import check_found, check_settings
from ray_st.util.endings import LeaseLost


def subfolder(folder: Path) -> pafs.FileSystem:
    (folder / "bucket").mkdir(exist_ok=True)
    return pafs.SubTreeFileSystem(str(folder / "bucket"), pafs.LocalFileSystem())


def local(folder: Path) -> pafs.FileSystem:
    return pafs.LocalFileSystem()


def memory(folder: Path) -> pafs.FileSystem:
    MemoryFileSystem.store.clear()
    return pafs.PyFileSystem(pafs.FSSpecHandler(MemoryFileSystem()))


@pytest.fixture(params=[local, subfolder, memory])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A search's folder in storages of several kinds."""
    base = str(tmp_path / "storage") if request.param is local else "storage"
    return Home(request.param(tmp_path), f"{base}/searches/s")


@pytest.fixture
def one_home(tmp_path: Path) -> Home:
    return Home(subfolder(tmp_path), "searches/s")


def machine(tmp_path: Path, name: str) -> Path:
    (tmp_path / name / "s").mkdir(parents=True, exist_ok=True)
    return tmp_path / name / "s"


def event(folder: Path, number: int) -> None:
    asked = {"values": {}, "params": {}, "distributions": {}, "name": ""}
    Journal(folder / JOURNAL).append(event="asked", number=number, **asked)


def held() -> None:
    """Checks a lease that nobody takes."""


def mirror(folder: Path, home: Home, check: Callable[[], None] = held) -> Mirror:
    return Mirror(folder, home, check, delay_s=0.01, closing_s=0.5)


def begun(tmp_path: Path, home: Home, events: int = 3) -> Path:
    """A search that was begun on a machine, and whose copy is complete."""
    folder = machine(tmp_path, "first")
    check_settings(folder, {"seed": 1})
    with mirror(folder, home):
        for number in range(events):
            event(folder, number)
    return folder


# ---- pieces ----


def test_the_journal_is_the_newest_era_that_has_a_beginning() -> None:
    pieces = [Piece(1, 0, 10), Piece(1, 10, 12), Piece(2, 0, 11), Piece(2, 11, 14), Piece(3, 14, 20)]
    assert chain(pieces) == [Piece(2, 0, 11), Piece(2, 11, 14)]
    assert chain([]) == []
    assert chain([Piece(1, 5, 9)]) == []
    assert [Piece.named(piece.name) for piece in pieces] == pieces
    assert Piece.named("lease.json") is None


def test_of_an_interrupted_merge_the_longest_piece_counts() -> None:
    whole, rest = Piece(1, 0, 3), [Piece(1, 1, 2), Piece(1, 2, 3), Piece(1, 3, 4)]
    assert chain([Piece(1, 0, 1), whole, *rest]) == [whole, rest[-1]]
    assert chain([whole, *rest[1:]]) == [whole, rest[-1]]


def test_there_are_few_pieces_whatever_is_written() -> None:
    pieces, there, written = Pieces(1, width=4), set[Piece](), 0
    chance = random.Random(0)
    lines = 0
    for _ in range(1000):
        count = chance.randint(1, 3)
        piece = pieces.next(count)
        there.add(piece)
        pieces.add(piece)
        lines += count
        while due := pieces.due():
            merged = pieces.merged()
            written += merged.end - merged.first
            there.add(merged)
            pieces.replace(merged)
            there -= set(due)
        found = chain(there)
        assert found == sorted(there)
        assert found[-1].end == pieces.end == lines
    assert len(there) <= 3 * 5
    assert written <= 5 * lines  # each line once for each level


# ---- copying and fetching ----


def test_another_machine_has_what_the_first_one_had(home: Home, tmp_path: Path) -> None:
    folder = machine(tmp_path, "first")
    check_settings(folder, {"seed": 1})
    (folder / "study.db").write_text("not copied")
    (folder / "lease.json").write_text("{}")
    with mirror(folder, home) as copying:
        for number in range(40):
            event(folder, number)
            if number % 10 == 0:
                assert copying.wait(10)
        (folder / "trials.csv").write_text("number\n")
        (folder / "report.html").write_bytes(b"<html>")
    assert home.journal() == (folder / JOURNAL).read_bytes()
    assert home.read("trials.csv") == b"number\n"
    assert home.read("report.html") == b"<html>"
    assert home.read("study.db") is home.read("lease.json") is None
    other = machine(tmp_path, "second")
    fetch(other, home)
    assert len(Journal(other / JOURNAL).records()) == 40
    assert check_settings(other, {"seed": 1}) == check_settings(folder, {"seed": 1})


def test_events_are_in_the_storage_soon(home: Home, tmp_path: Path) -> None:
    folder = machine(tmp_path, "first")
    with Mirror(folder, home, held) as copying:
        event(folder, 0)
        begin = time.monotonic()
        assert copying.wait(10)
        assert time.monotonic() - begin < 3
        assert home.journal() == (folder / JOURNAL).read_bytes()


def test_a_search_goes_to_and_fro(home: Home, tmp_path: Path) -> None:
    begun(tmp_path, home)
    for turn in range(3, 9):
        folder = machine(tmp_path, ("first", "second", "third")[turn % 3])
        fetch(folder, home)
        with mirror(folder, home):
            event(folder, turn)
        assert len(Journal(folder / JOURNAL).records()) == turn + 1
        assert len({piece.era for piece in home.pieces()}) == 1


def test_a_part_with_a_journal_of_its_own_is_copied_with_the_search(home: Home, tmp_path: Path) -> None:
    folder = begun(tmp_path, home)
    with mirror(folder / "confirm", home.part("confirm")) as copying:  # the folder comes later
        (folder / "confirm").mkdir()
        event(folder / "confirm", 0)
        assert copying.wait(10)
        event(folder / "confirm", 1)
        copying.finish()
    other = machine(tmp_path, "second")
    fetch(other, home)
    assert not (other / "confirm").exists()
    fetch(other, home, ["confirm"])
    assert len(Journal(other / "confirm" / JOURNAL).records()) == 2
    assert len(Journal(other / JOURNAL).records()) == 3


def test_a_folder_that_is_ahead_is_copied(one_home: Home, tmp_path: Path) -> None:
    folder = begun(tmp_path, one_home)
    event(folder, 3)  # its driver was killed before it was copied
    with (folder / JOURNAL).open("a") as stream:
        stream.write('{"event": "to')  # and while it wrote this
    fetch(folder, one_home)
    with mirror(folder, one_home):
        assert one_home.journal().count(b"\n") == 4
        assert len(Journal(folder / JOURNAL).records()) == 4


def test_a_search_continued_on_two_machines_is_refused(one_home: Home, tmp_path: Path) -> None:
    first = begun(tmp_path, one_home)
    second = machine(tmp_path, "second")
    fetch(second, one_home)
    event(first, 3)
    time.sleep(0.002)
    with mirror(second, one_home):
        event(second, 3)
    with pytest.raises(RecordError, match=r"two machines: .*differ from line 4 on \(4 and 4 lines\)"):
        fetch(first, one_home)


def test_another_search_of_the_name_is_refused(one_home: Home, tmp_path: Path) -> None:
    begun(tmp_path, one_home)
    other = machine(tmp_path, "second")
    check_settings(other, {"seed": 1})
    with pytest.raises(RecordError, match="hold two searches of this name"):
        fetch(other, one_home)


def test_a_storage_without_records_changes_nothing(one_home: Home, tmp_path: Path) -> None:
    folder = machine(tmp_path, "first")
    event(folder, 0)
    before = (folder / JOURNAL).read_bytes()
    fetch(folder, one_home)
    assert (folder / JOURNAL).read_bytes() == before


def test_facts_about_the_data_come_from_where_they_are_known(one_home: Home, tmp_path: Path) -> None:
    first = begun(tmp_path, one_home)
    second = machine(tmp_path, "second")
    fetch(second, one_home)
    check_found(second, {"train": "64 rows (a)"})
    with mirror(second, one_home):
        pass
    fetch(first, one_home)
    with pytest.raises(RecordError, match="train was"):
        check_found(first, {"train": "64 rows (b)"})


def test_damage_is_named(one_home: Home, tmp_path: Path) -> None:
    folder = begun(tmp_path, one_home)
    fetch(folder, one_home)
    with mirror(folder, one_home) as copying:
        event(folder, 3)
        assert copying.wait(10)
        event(folder, 4)
    first, *_, last = chain(one_home.pieces())
    whole = one_home.journal()
    one_home.write(f"{PIECES}/{last.name}", b'{"event":')  # its writer was killed
    assert one_home.journal() == whole[: whole[:-1].rfind(b"\n") + 1]
    one_home.write(f"{PIECES}/{first.name}", b"one line\n")
    with pytest.raises(RecordError, match="is damaged: expected 3 lines, found 1"):
        one_home.journal()
    one_home.write("search.json", b"{")
    with pytest.raises(RecordError, match=r"search\.json is damaged"):
        fetch(folder, one_home)


# ---- a storage that is away, and a search that is taken ----


class Away(Home):
    """A storage that can be taken away."""

    is_away = threading.Event()

    def write(self, name: str, content: bytes) -> None:
        if self.is_away.is_set():
            raise OSError("no route to host")
        super().write(name, content)


@pytest.fixture
def away(tmp_path: Path) -> Any:
    home = Away(subfolder(tmp_path), "searches/s")
    yield home
    home.is_away.clear()


def test_a_storage_that_is_away_for_a_while(
    away: Away, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = machine(tmp_path, "first")
    with mirror(folder, away) as copying:
        event(folder, 0)
        assert copying.wait(10)
        away.is_away.set()
        for number in range(1, 200):
            event(folder, number)
        assert not copying.wait(0.1)
        before = away.journal()
        away.is_away.clear()
        assert copying.wait(10)
    assert before.count(b"\n") == 1
    assert away.journal() == (folder / JOURNAL).read_bytes()
    out = capsys.readouterr().out
    assert out.count("cannot be written (OSError: no route to host)") == 1
    assert out.count("is back; it holds") == 1


def test_a_storage_that_stays_away(away: Away, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = machine(tmp_path, "first")
    with mirror(folder, away):
        away.is_away.set()
        event(folder, 0)
    assert "the last events of the search are only in" in capsys.readouterr().out
    away.is_away.clear()
    with mirror(folder, away):
        pass
    assert away.journal() == (folder / JOURNAL).read_bytes()
    away.is_away.set()
    with pytest.raises(OSError, match="no route"), mirror(folder, away):
        pass


def test_nothing_is_written_to_a_search_that_another_driver_has_taken(one_home: Home, tmp_path: Path) -> None:
    folder, taken = machine(tmp_path, "first"), threading.Event()

    def check() -> None:
        if taken.is_set():
            raise LeaseLost("taken")

    with mirror(folder, one_home, check) as copying:
        event(folder, 0)
        assert copying.wait(10)
        taken.set()
        event(folder, 1)
        assert not copying.wait(10)
        with pytest.raises(LeaseLost, match="taken"):
            copying.check()
        begin = time.monotonic()
    assert time.monotonic() - begin < 0.4
    assert one_home.journal().count(b"\n") == 1
