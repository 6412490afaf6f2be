"""Counts the rows of text files, so that they can be read from anywhere: here, or by tasks if large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ray

from ray_st.data.sources import Part
from ray_st.data.sources.source import MIB
from ray_st.runtime.cluster.handles import result_of
from ray_st.runtime.data.ingest import beside_workers, on_this_machine
from ray_st.util.events import notes

HERE_BYTES = 32 * MIB
"""So many bytes, which take a quarter of a second at most, are gone through without tasks."""

TASK_BYTES = 256 * MIB
"""Approximate bytes of files that a task goes through; a single file is not divided."""


def count_rows(parts: Sequence[Part], label: str) -> list[Part]:
    """Parts with their rows counted where their format allows it.

    Args:
        parts: The parts.
        label: Name of the dataset in messages.

    Raises:
        SourceError: If a file cannot be read.
    """
    size = sum(part.uncounted for part in parts)
    if size <= HERE_BYTES:
        return [part.counted() for part in parts]
    files = sum(part.uncounted > 0 for part in parts)
    notes.info(
        f"{label}: counting the rows of {files:,} text file(s), {size / MIB:,.0f} MiB, to read them in pieces"
    )
    options = on_this_machine() if any(part.local for part in parts) else beside_workers()
    count = ray.remote(_counted).options(**options)
    counted = result_of([count.remote(group) for group in groups_of(parts, TASK_BYTES)])
    return [part for group in counted for part in group]


def groups_of(parts: Sequence[Part], size: int) -> Iterator[list[Part]]:
    """Consecutive parts for each task.

    Args:
        parts: The parts.
        size: Bytes to count in a group, at least, but for the last one.
    """
    group: list[Part] = []
    for part in parts:
        group.append(part)
        if sum(one.uncounted for one in group) >= size:
            yield group
            group = []
    if group:
        yield group


def _counted(parts: list[Part]) -> list[Part]:
    return [part.counted() for part in parts]
