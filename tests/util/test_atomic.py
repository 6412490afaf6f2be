"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from ray_st.util.atomic import is_unfinished, replacing, replacing_in, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "ä")
    with replacing(path) as part:
        part.write_bytes(b"new")
        assert path.read_text(encoding="utf-8") == "ä"
        assert is_unfinished(part.name)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]


def fails_on_disk(path: Path) -> None:
    with replacing(path) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError


def fails_in_a_stream(path: Path) -> None:
    with replacing_in(LocalFileSystem(), str(path)) as stream:
        stream.write(b"half")
        raise ZeroDivisionError


@pytest.mark.parametrize("fail", [fails_on_disk, fails_in_a_stream])
def test_an_error_leaves_the_old_file_and_nothing_else(fail: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    with pytest.raises(ZeroDivisionError):
        fail(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def test_a_stream_becomes_a_file_when_it_ends_well(tmp_path: Path) -> None:
    with replacing_in(LocalFileSystem(), str(tmp_path / "b")) as stream:
        stream.write(b"all")
        assert all(map(is_unfinished, names(tmp_path)))
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"all"
