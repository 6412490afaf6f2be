"""The rows of text files are counted in this process or by tasks, with the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_st.data.sources import Files, Part, SourceError
from ray_st.runtime.data import counting, ingest
from ray_st.runtime.data.counting import count_rows, groups_of


def parts(folder: Path, rows: tuple[int, ...] = (3, 5, 0, 2)) -> list[Part]:
    for number, own in enumerate(rows):
        (folder / f"{number}.csv").write_text("a,b\n" + '"one\nline",two\n' * own)
    return Files(str(folder / "*.csv"), types={"a": "string", "b": "string"}).parts()


def by_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "HERE_BYTES", 0)
    monkeypatch.setattr(counting, "TASK_BYTES", 60)


def test_small_files_are_counted_here(tmp_path: Path) -> None:
    assert [part.count() for part in count_rows(parts(tmp_path), "train")] == [3, 5, 0, 2]


@pytest.mark.ray
@pytest.mark.parametrize("resources", [None, {"memory": 1000.0}], ids=["cpus", "none"])
def test_large_files_are_counted_by_tasks(
    cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resources: Any,
) -> None:
    by_tasks(monkeypatch)
    if resources:  # a head node that computes nothing
        monkeypatch.setattr(ingest, "resources", lambda here: resources)
    counted = count_rows(parts(tmp_path), "train")
    assert [part.count() for part in counted] == [3, 5, 0, 2]
    assert all(part.seekable for part in counted)
    assert "train: counting the rows of 4 text file(s), 0 MiB" in capsys.readouterr().out


@pytest.mark.ray
def test_the_error_of_a_task_names_the_file(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_tasks(monkeypatch)
    listed = parts(tmp_path)
    (tmp_path / "1.csv").write_text("a,b\n")
    with pytest.raises(SourceError, match=r"1\.csv: it was removed or written anew since"):
        count_rows(listed, "train")


def test_files_are_grouped_by_their_bytes(tmp_path: Path) -> None:
    listed = parts(tmp_path, (1, 1, 1, 9, 1))
    assert [len(group) for group in groups_of(listed, 38)] == [2, 2, 1]
    assert [len(group) for group in groups_of(listed, 1)] == [1] * 5
    assert not list(groups_of([], 1))
