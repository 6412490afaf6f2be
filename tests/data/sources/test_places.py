from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ray_st.data.sources import Files, SourceError
from ray_st.data.sources.places import list_files

NAMES = [
    "b.csv",
    "a.csv",
    "a[1].csv",
    "x/c.csv",
    "x/y/d.csv",
    "x/y/e.txt",
    "x/_SUCCESS",
    "x/.hidden.csv",
    "_tmp/f.csv",
]


@pytest.fixture(params=["local", "absolute", "remote"])
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n1\n")
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()) if request.param == "remote" else None

    def names(*paths: str) -> list[str]:
        at = [f"{tmp_path}/{path}" if request.param == "absolute" else path for path in paths]
        return [file.name.removeprefix(f"{tmp_path}/") for file in list_files(at, store, [".csv"])]

    return names


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a.csv", "a[1].csv", "b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("[ab].csv", ["a.csv", "b.csv"]),
        ("[!a].csv", ["b.csv"]),
        ("[a-b].csv", ["a.csv", "b.csv"]),
        ("**/*.csv", ["a.csv", "a[1].csv", "b.csv", "x/c.csv", "x/y/d.csv"]),
        ("x/**/d.csv", ["x/y/d.csv"]),
        ("*/*.csv", ["x/c.csv"]),
        ("x", ["x/c.csv", "x/y/d.csv"]),
        ("x/", ["x/c.csv", "x/y/d.csv"]),
        ("x/y/e.txt", ["x/y/e.txt"]),
        ("a[1].csv", ["a[1].csv"]),
    ],
)
def test_paths_and_patterns_in_one_order(listed: Any, pattern: str, found: list[str]) -> None:
    assert listed(pattern) == found


def test_several_paths_keep_their_order(listed: Any) -> None:
    assert listed("x/y/d.csv", "?.csv") == ["x/y/d.csv", "a.csv", "b.csv"]


class Denied(fs.FileSystemHandler):  # type: ignore[misc]
    """A store that lists one file and lets nobody read it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def get_type_name(self) -> str:
        return "denied"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [fs.FileInfo(path, fs.FileType.File, size=10) for path in paths]

    def open_input_stream(self, path: str) -> Any:
        raise PermissionError(13, "denied")

    open_input_file = open_input_stream
    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = None
    get_file_info_selector = move = open_append_stream = open_output_stream = None


Denied.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.arrow"])
def test_permission_denied_is_said(name: str) -> None:
    with pytest.raises(SourceError, match=rf"{name}: permission denied; allow"):
        Files(name, filesystem=fs.PyFileSystem(Denied())).columns()


def test_a_remote_part_can_be_read_anywhere() -> None:
    store = fs._MockFileSystem()
    store.create_dir("folder")
    with store.open_output_stream("folder/t.csv") as stream:
        stream.write(b"a\n1\n")
    (part,) = Files("folder/*.csv", filesystem=store).parts()
    assert not part.local
    assert [table.to_pylist() for table in part.read()] == [[{"a": 1}]]


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("s3://bucket/a folder/*.csv", "s3://bucket"),
        (
            "s3://bucket/a folder/?.csv?region=eu-west-1&scheme=http",
            "s3://bucket?region=eu-west-1&scheme=http",
        ),
        ("gs://bucket/a folder", "gs://bucket"),
        ("s3://bucket/a folder/t.csv", "s3://bucket"),
    ],
)
def test_stores_are_opened_by_scheme_and_paths_need_no_escapes(
    uri: str, asked: str, monkeypatch: pytest.MonkeyPatch, rows_of: Any
) -> None:
    store = fs._MockFileSystem()
    store.create_dir("bucket/a folder")
    with store.open_output_stream("bucket/a folder/t.csv") as stream:
        stream.write(b"a\n1\n")
    opened: list[str] = []

    def open_location(uri: str) -> tuple[fs.FileSystem, str]:
        opened.append(uri)
        return store, "bucket"

    monkeypatch.setattr("ray_st.data.sources.places.open_location", open_location)
    source = Files(uri)
    assert [file.name for file in source.files] == [uri.partition("://")[0] + "://bucket/a folder/t.csv"]
    assert opened == [asked]
    assert next(source.parts()[0].read()).to_pylist() == [{"a": 1}]
