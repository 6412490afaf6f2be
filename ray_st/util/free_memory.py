"""How much memory this process can still get: the machine's, or what its container is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")

# Of control groups version 2 and 1: the folder below the root, then the files with the limit and the use, and
# the line of memory.stat with what of it caches files, which the kernel gives up when memory is short.
_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(groups: Path = _GROUPS, mine: Path = _MINE) -> int:
    """Bytes that this process can still allocate, as far as the system says.

    Args:
        groups: Where control groups are mounted.
        mine: The file that names those of this process.
    """
    return min([psutil.virtual_memory().available, *_left(groups, mine)])


def as_gib(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB"


def _left(groups: Path, mine: Path) -> Iterator[int]:
    """What is left in this process's control group, and in each one around it, that has a limit."""
    with suppress(OSError):  # not Linux
        for line in mine.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for name, (folder, *files) in _FILES.items():
                if name in controllers.split(","):
                    root = groups / folder
                    inner = root / path.lstrip("/")
                    # In a container the path may be that of the host, where the container sees its own root.
                    for group in {root, inner, *(up for up in inner.parents if up.is_relative_to(root))}:
                        yield from _left_in(group, *files)


def _left_in(group: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such group, or "max"
        most, now = int((group / limit).read_text()), int((group / used).read_text())
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield max(most - now + int(dict(lines).get(cache, 0)), 0)
