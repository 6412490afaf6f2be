"""Paths and URIs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from ray_st.util.filesystems import check_kept, open_location, upload_of


def test_paths_and_uris_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (str(tmp_path / "a"), "a", Path("a"), (tmp_path / "a").as_uri()):
        filesystem, path = open_location(place)
        assert isinstance(filesystem, LocalFileSystem)
        assert path == str(tmp_path / "a")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises((ValueError, OSError), match="nowhere"):
        open_location("nowhere://a/b")


UPLOAD = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0a1b")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (UPLOAD, UPLOAD),
        (UPLOAD / "outputs" / "r", UPLOAD),
        ("/data/working_dir_files/out", None),
        (UPLOAD.parent, None),
        (f"s3://bucket{UPLOAD}/out", None),
        ("outputs", None),
    ],
)
def test_the_upload_of_a_path(path: str | Path, found: Path | None) -> None:
    assert upload_of(path) == found


def test_a_relative_path_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = tmp_path.joinpath(*UPLOAD.parts[3:])
    upload.mkdir(parents=True)
    monkeypatch.chdir(upload)
    assert upload_of("out") == upload
    with pytest.raises(ValueError, match=r"output_dir 'out' lies in .*_ray_pkg_0a1b.*absolute path"):
        check_kept("out", "output_dir")
    check_kept(tmp_path, "output_dir")
