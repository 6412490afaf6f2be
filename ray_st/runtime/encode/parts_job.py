"""A job that workers do piece by piece: each piece of a corpus becomes a file of a folder, and it resumes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ray_st.runtime.cluster.actor_pool import ActorPool, Needs
from ray_st.runtime.cluster.connection import connected, resources
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.work_plan import WorkPiece
from ray_st.util.events import notes

_PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Encoded:
    """The result of a job.

    Args:
        rows: Number of rows of the whole output.
        encoded: Number of rows that this call encoded or scored; the others already existed.
        parts: Number of files of the whole output.
    """

    rows: int
    encoded: int
    parts: int


class JobProgress:
    """Shows rows and parts while the context is open.

    Args:
        pieces: All pieces of the job.
        done: Names of the pieces that are already complete.
        show: Whether to show anything.
        doing: What the bar says: "encoding".
    """

    def __init__(
        self, pieces: Sequence[WorkPiece], done: Collection[str], show: bool, doing: str = "encoding"
    ) -> None:
        self.total, self._parts, self._show = sum(piece.rows for piece in pieces), len(pieces), show
        self._before = self._rows = sum(piece.rows for piece in pieces if piece.name in done)
        self._done, self._doing = len(done), doing
        self._bar: Any = None

    def __enter__(self) -> JobProgress:
        self._start = self._last = time.monotonic()
        if self._show and sys.stderr.isatty():
            self._bar = tqdm(total=self.total, initial=self._before, desc=self._doing, unit="row")
        elif self._show:
            there = f"; {self._done} of them are there" if self._done else ""
            notes.info(f"{self.total:,} rows in {self._parts} parts{there}")
        return self

    def add(self, piece: WorkPiece) -> None:
        """Counts a completed piece."""
        self._rows += piece.rows
        self._done += 1
        if self._bar is not None:
            self._bar.update(piece.rows)
        elif self._show and (self._rows == self.total or time.monotonic() - self._last >= _PROGRESS_EVERY_S):
            self._last = time.monotonic()
            rate = (self._rows - self._before) / max(self._last - self._start, 1e-9)
            notes.info(
                f"{self._rows:,}/{self.total:,} rows  {self._done}/{self._parts} parts  {rate:,.0f} rows/s"
            )

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True)
class PartsJob:
    """A job, and what does it.

    Args:
        folder: The output folder.
        pieces: What becomes its files.
        facts: What the output depends on, as JSON values.
        workers: Number of processes; None for as many as the cluster's GPUs (or CPUs) allow.
        num_gpus: GPUs per worker; None for 1, or 0 (one CPU) on a cluster without GPUs.
        shared_disk: Whether all nodes see local paths.
        show_progress: Whether to show progress.
        doing: What progress says.
    """

    folder: OutputFolder
    pieces: list[WorkPiece]
    facts: dict[str, Any]
    workers: int | None = None
    num_gpus: float | None = None
    shared_disk: bool = False
    show_progress: bool = True
    doing: str = "encoding"

    def run(
        self,
        kind: type,
        arguments: Callable[[], list[Any]],
        attention: Collection[str] = (),
        begin: Callable[[ActorPool], dict[str, Any]] | None = None,
        extra: Callable[[dict[str, Any]], tuple[Any, ...]] = lambda job: (),
    ) -> Encoded:
        """Does what is left of the job.

        Args:
            kind: The workers' class, whose method ``work`` writes a piece.
            arguments: Makes its constructor's arguments; called only if anything is left.
            attention: The attentions of the workers' models that nodes may lack.
            begin: Computes facts that all pieces need, at the start of the job; they are kept in the folder.
            extra: Maps the job's facts to further arguments of ``work``.

        Raises:
            ValueError: If the folder holds something else, or the cluster lacks the resources.
        """
        job = self.folder.begin(self.facts)
        done = self.folder.done(self.pieces)
        left = [piece for piece in self.pieces if piece.name not in done]
        progress = JobProgress(self.pieces, done, self.show_progress, self.doing)
        if left:
            local = self.folder.local or any(piece.part.local for piece in self.pieces)
            here = local and not self.shared_disk
            with (
                connected(),
                ActorPool(kind, arguments(), self._needs(len(left), here), here, attention) as pool,
            ):
                if job is None:
                    job = self.facts if begin is None else {**self.facts, **begin(pool)}
                    self.folder.keep(job)
                with progress:
                    more = extra(job)
                    for number, _ in pool.run("work", [(piece, *more) for piece in left]):
                        progress.add(left[number])
        self.folder.finish(job or self.facts, self.pieces)
        return Encoded(progress.total, sum(piece.rows for piece in left), len(self.pieces))

    def _needs(self, pieces: int, here: bool) -> list[Needs]:
        """The resources of each worker.

        By default, as many workers as the cluster has room for and the pieces can keep busy.
        """
        have, workers = resources(here), self.workers
        gpus = min(1.0, have.get("GPU", 0)) if self.num_gpus is None else self.num_gpus
        if gpus < 0 or (workers is not None and workers < 1):
            raise ValueError(
                f"workers must be at least 1 and num_gpus at least 0; got {workers} and {self.num_gpus}."
            )
        each: Needs = {"GPU": gpus} if gpus else {"CPU": 1}
        room = int(min(have.get(name, 0) / amount for name, amount in each.items()))
        return [each] * max(min(workers or room, pieces), 1)
