"""Paths and URIs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from ray_st.util.filesystems import open_place


def test_paths_and_uris_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (str(tmp_path / "a"), "a", Path("a"), (tmp_path / "a").as_uri()):
        filesystem, path = open_place(place)
        assert isinstance(filesystem, LocalFileSystem)
        assert path == str(tmp_path / "a")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises((ValueError, OSError), match="nowhere"):
        open_place("nowhere://a/b")
