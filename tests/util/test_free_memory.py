"""What is left of the memory of a machine, and of a container."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_st.util import free_memory
from ray_st.util.free_memory import as_gib, available_memory

GIB = 2**30
UNLIMITED = "9223372036854771712"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))


def group(folder: Path, names: tuple[str, str, str], limit: Any, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used, f"anon 5\n{names[2]} {cache}\nslab 7"), strict=True):
        (folder / ("memory.stat" if name == names[2] else name)).write_text(f"{value}\n")


def second(folder: Path, limit: Any, used: int, cache: int = 0) -> None:
    group(folder, ("memory.max", "memory.current", "inactive_file"), limit, used, cache)


def first(folder: Path, limit: Any, used: int, cache: int = 0) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    group(folder, names, limit, used, cache)


def left(folder: Path, lines: str) -> int:
    (folder / "mine").write_text(lines)
    return available_memory(folder, folder / "mine")


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path / "none") == 64 * GIB
    assert left(tmp_path, "0::/init.scope\n") == 64 * GIB


def test_a_container_s_caches_can_be_taken_back(tmp_path: Path) -> None:
    second(tmp_path, 8 * GIB, 7 * GIB, cache=2 * GIB)
    assert left(tmp_path, "0::/\n") == 3 * GIB


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    second(tmp_path / "kubepods" / "pod" / "main", "max", 5 * GIB)
    second(tmp_path / "kubepods" / "pod", 8 * GIB, 6 * GIB)
    second(tmp_path / "kubepods", 50 * GIB, 20 * GIB)
    assert left(tmp_path, "0::/kubepods/pod/main\n") == 2 * GIB


@pytest.mark.parametrize("seen", ["docker/abc", ""])
def test_the_first_version_also_where_a_container_sees_its_own_root(tmp_path: Path, seen: str) -> None:
    first(tmp_path / "memory", UNLIMITED, 40 * GIB)
    first(tmp_path / "memory" / seen, 8 * GIB, 7 * GIB, cache=GIB)
    assert left(tmp_path, "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n") == 2 * GIB


def test_more_than_is_allowed_leaves_nothing(tmp_path: Path) -> None:
    second(tmp_path, GIB, 2 * GIB)
    assert left(tmp_path, "0::/\n") == 0


def test_this_machine_says_something() -> None:
    assert 0 < available_memory() <= 64 * GIB
    assert as_gib(1.25 * GIB) == "1.2 GiB"
