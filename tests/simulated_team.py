"""A team whose processes are threads of this one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ThreadTeam:
    rank: int
    size: int
    everyone: threading.Barrier
    sent: list[Any]

    def gather(self, value: Any) -> list[Any]:
        self.sent[self.rank] = value
        self.everyone.wait()
        received = list(self.sent)
        self.everyone.wait()
        return received


def together(size: int, task: Callable[[ThreadTeam], Any]) -> list[Any]:
    """What a task returns on each rank of a team."""
    everyone, sent = threading.Barrier(size, timeout=30), [None] * size
    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(lambda rank: task(ThreadTeam(rank, size, everyone, sent)), range(size)))
