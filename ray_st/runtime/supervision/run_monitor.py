"""The actor through which a run's driver and workers communicate.

It handles stop requests, hangs, lost workers and console output.

It imports nothing heavy, so that its process starts quickly. The driver owns it; it outlives worker groups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from logging import LogRecord
from typing import Any

import ray

from ray_st.runtime.cluster.handles import Actor
from ray_st.runtime.supervision.ray_metrics import count
from ray_st.util.booked import Booked
from ray_st.util.endings import Hang
from ray_st.util.screen import BarMove

POLL_S = 20.0
"""Seconds that a poll waits for a change before it returns; the caller then polls again."""

CAUSES = ("preempted", "hang", "node", "moved", "resized", "process", "error")
"""Why workers are replaced.

If ranks report different causes, the first in this order counts: the others are its consequences.
"""


@dataclass(frozen=True)
class MonitorUpdate:
    """The state that workers need to know.

    Args:
        version: Incremented with each change.
        stop: Whether the run should stop.
        hang: The hang that a rank's watchdog detected, or None.
        resize: Whether the workers should leave after a checkpoint, since their number is to change.
    """

    version: int = 0
    stop: bool = False
    resize: bool = False
    hang: Hang | None = None


@dataclass(frozen=True)
class GroupsBefore:
    """The worker groups before one that starts.

    Args:
        groups: How many there were.
        cause: Why the last one ended: one of :data:`CAUSES`, or unknown.
        size: How many workers that had.
    """

    groups: int
    cause: str
    size: int


class RunMonitor:
    """Collects reports from driver and workers, and answers their queries.

    Args:
        run: The run's name.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._news = MonitorUpdate()
        self._changed = asyncio.Condition()
        self._answers: set[int] = set()
        self._workers: dict[int, Actor] = {}
        self._groups = self._size = 0
        self._causes: set[str] = set()
        self._booked = Booked()
        self._said: asyncio.Queue[str | BarMove | LogRecord | None] = asyncio.Queue()

    async def _until(self, true: Callable[[], bool], wait_s: float) -> None:
        async with self._changed:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(true), wait_s)

    async def _change(self, **changes: Any) -> None:
        async with self._changed:
            self._news = replace(self._news, version=self._news.version + 1, **changes)
            self._changed.notify_all()

    async def news(self, seen: int) -> MonitorUpdate:
        """The current state; waits for a newer version, up to :data:`POLL_S`.

        Args:
            seen: The version that the caller knows.
        """
        await self._until(lambda: self._news.version > seen, POLL_S)
        return self._news

    # ---- stops and hangs ----

    async def stop(self) -> None:
        """Asks the workers to stop."""
        await self._change(stop=True)

    async def resize(self, asked: bool) -> None:
        """Asks the workers to leave after a checkpoint, or takes that back before others start."""
        if self._news.resize != asked:
            await self._change(resize=asked)

    async def hang(self, hang: Hang) -> None:
        """Asks all ranks to write their stacks; reports from other ranks count as the same hang."""
        if self._news.hang is None:
            self._answers = set()
            self._causes.add("hang")  # Ray may report only that the silent rank died
            await self._change(hang=hang)

    async def answer(self, rank: int) -> None:
        """Records that a rank has written its stacks."""
        async with self._changed:
            self._answers.add(rank)
            self._changed.notify_all()

    async def answers(self, ranks: int, wait_s: float) -> list[int]:
        """The ranks that have written their stacks; waits for all, for a limited time."""
        await self._until(lambda: len(self._answers) >= ranks, wait_s)
        return sorted(self._answers)

    async def end(self, ranks: list[int]) -> None:
        """Kills workers, by rank."""
        for rank in ranks:
            ray.kill(self._workers[rank])

    # ---- worker groups ----

    async def enter(self, rank: int, worker: Actor) -> None:
        """Registers a rank's worker.

        Args:
            rank: Its rank.
            worker: The handle of its actor.
        """
        self._workers[rank] = worker

    async def lost(self, cause: str) -> None:
        """Records that workers were lost, for one of :data:`CAUSES`."""
        self._causes.add(cause)

    async def group_started(self, size: int) -> GroupsBefore:
        """Records the start of a worker group.

        Args:
            size: Number of its workers.
        """
        cause = min(self._causes, key=CAUSES.index, default="unknown")
        before = GroupsBefore(self._groups, cause, self._size)
        self._groups, self._size, self._causes = self._groups + 1, size, set()
        count("st_workers_started", run=self._run)
        if before.groups:
            count("st_restarts", run=self._run, cause=cause)
        await self._change(hang=None)
        return before

    async def book(self, step: int, total: float) -> None:
        """Records the productive seconds up to a step."""
        self._booked.book(step, total)

    async def total_at(self, step: int) -> float:
        """The productive seconds up to a step; records of later steps are dropped."""
        return self._booked.total_at(step)

    # ---- the driver's console ----

    async def say(self, item: str | BarMove | LogRecord) -> None:
        """Queues a line or an event for the driver's console, or a move of its bar."""
        self._said.put_nowait(item)

    async def close_lines(self) -> None:
        """Wakes up a caller that waits for lines."""
        self._said.put_nowait(None)

    async def lines(self) -> list[str | BarMove | LogRecord]:
        """The items queued since the last call; waits for the first one, for a limited time."""
        found = []
        with suppress(asyncio.TimeoutError):
            found.append(await asyncio.wait_for(self._said.get(), POLL_S))
        while not self._said.empty():
            found.append(self._said.get_nowait())
        return [item for item in found if item is not None]
