"""Encodes a corpus of any size on the whole cluster: files in, a folder of Parquet files with vectors out."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ray_st.data.sources import Files
from ray_st.data.sources.places import Paths
from ray_st.models.attention import of_packages
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.cluster.actor_pool import ActorPool, Needs
from ray_st.runtime.cluster.connection import connected, resources
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import PickledRef
from ray_st.runtime.encode.job import EncodeOptions, facts_of
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.work import bounds_of, calibration_pieces, encode_piece, joined_bounds
from ray_st.runtime.encode.work_plan import PART_ROWS, WorkPiece, plan_pieces
from ray_st.util.events import notes

_PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Encoded:
    """The result of a job.

    Args:
        rows: Number of rows of the whole output.
        encoded: Number of rows encoded by this call; the others already existed.
        parts: Number of files of the whole output.
    """

    rows: int
    encoded: int
    parts: int


class CorpusWorker:
    """Encodes pieces in a separate process.

    Args:
        model: The model.
        options: How to encode each text.
        folder: The output folder.
    """

    def __init__(
        self, model: PickledRef[SentenceTransformer], options: EncodeOptions, folder: OutputFolder
    ) -> None:
        self._model, self._options, self._folder = model.open().to(take_granted_device()), options, folder

    def bounds(self, piece: WorkPiece) -> np.ndarray:
        """See :func:`ray_st.runtime.encode.work.bounds_of`."""
        return bounds_of(self._model, piece, self._options)

    def encode(self, piece: WorkPiece, ranges: np.ndarray | None) -> int:
        """See :func:`ray_st.runtime.encode.work.encode_piece`."""
        return encode_piece(self._model, piece, self._options, self._folder, ranges)


class JobProgress:
    """Shows rows and parts while the context is open.

    Args:
        pieces: All pieces of the job.
        done: Names of the pieces that are already complete.
        show: Whether to show anything.
    """

    def __init__(self, pieces: Sequence[WorkPiece], done: Collection[str], show: bool) -> None:
        self.total, self._parts, self._show = sum(piece.rows for piece in pieces), len(pieces), show
        self._before = self._rows = sum(piece.rows for piece in pieces if piece.name in done)
        self._done = len(done)
        self._bar: Any = None

    def __enter__(self) -> JobProgress:
        self._start = self._last = time.monotonic()
        if self._show and sys.stderr.isatty():
            self._bar = tqdm(total=self.total, initial=self._before, desc="encoding", unit="row")
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


def encode_corpus(
    model: SentenceTransformer,
    source: Files | Paths,
    output: str | Path,
    column: str | None = None,
    workers: int | None = None,
    num_gpus: float | None = None,
    part_rows: int = PART_ROWS,
    shared_disk: bool = False,
    show_progress: bool = True,
    **options: Any,
) -> Encoded:
    """Encodes the texts of files into a folder, and resumes where an earlier call was interrupted.

    Each part of the input becomes one output file, which appears once it is complete; ``_manifest.json``
    lists the files and is written last. A worker holds a few thousand rows at a time, the caller none. How
    rows are grouped, and therefore the output, does not depend on the workers.

    Args:
        model: A :class:`~ray_st.SentenceTransformer`; each worker gets a copy.
        source: Files of one format, or a folder, pattern or URI of such files, or
            :class:`~ray_st.data.sources.Files`.
        output: The folder, or its URI; created if it does not exist.
        column: The column to encode; by default the only one, or ``text``.
        workers: Number of encoding processes; by default as many as the cluster's GPUs (or CPUs) allow.
        num_gpus: GPUs per worker, such as 0.5; by default 1, or 0 (one CPU) on a cluster without GPUs.
        part_rows: Maximum number of rows of a part.
        shared_disk: Whether all nodes see local paths; if not, a job with local paths runs on this node only.
        show_progress: Whether to show a bar on a terminal, and lines elsewhere.
        **options: How to encode each text: ``prompt_name``, ``prompt``, ``batch_size``,
            ``normalize_embeddings``, ``truncate_dim``, ``precision``; see
            :class:`~ray_st.runtime.encode.job.EncodeOptions`. Ranges for int8 and uint8 are those of 8192
            rows spread over the corpus.

    Returns:
        The result of the job.

    Raises:
        ValueError: Before anything is encoded: if files, columns, options or resources are unsuitable, or the
            folder holds something else. Later: if a row is unusable.
    """
    files = source if isinstance(source, Files) else Files(source)
    named, pieces = plan_pieces(files, column, part_rows)
    asked = EncodeOptions(named, **options)
    model.encode([], **asked.for_encode(), precision=asked.precision)  # raises if the options are invalid
    folder, facts = OutputFolder.at(output), facts_of(model, files, pieces, asked)
    job = folder.begin(facts)
    done = folder.done(pieces)
    left = [piece for piece in pieces if piece.name not in done]
    progress = JobProgress(pieces, done, show_progress)
    if left:
        here = not shared_disk and (folder.local or any(piece.part.local for piece in pieces))
        with (
            connected(),
            ActorPool(
                CorpusWorker,
                [PickledRef(model), asked, folder],
                _needs(workers, num_gpus, len(left), here),
                here,
                of_packages([model]),
            ) as pool,
        ):
            job = job or _begin(pool, folder, facts, pieces, asked)
            ranges = None if job["ranges"] is None else np.asarray(job["ranges"], dtype=np.float32)
            with progress:
                for number, _ in pool.run("encode", [(piece, ranges) for piece in left]):
                    progress.add(left[number])
    folder.finish(job or facts, pieces)
    return Encoded(progress.total, sum(piece.rows for piece in left), len(pieces))


def _needs(workers: int | None, num_gpus: float | None, pieces: int, here: bool) -> list[Needs]:
    """The resources of each worker.

    By default, as many workers as the cluster has room for and the pieces can keep busy.
    """
    have = resources(here)
    gpus = min(1.0, have.get("GPU", 0)) if num_gpus is None else num_gpus
    if gpus < 0 or (workers is not None and workers < 1):
        raise ValueError(f"workers must be at least 1 and num_gpus at least 0; got {workers} and {num_gpus}.")
    each: Needs = {"GPU": gpus} if gpus else {"CPU": 1}
    room = int(min(have.get(name, 0) / amount for name, amount in each.items()))
    return [each] * max(min(workers or room, pieces), 1)


def _begin(
    pool: ActorPool,
    folder: OutputFolder,
    facts: dict[str, Any],
    pieces: list[WorkPiece],
    options: EncodeOptions,
) -> dict[str, Any]:
    """Computes the ranges, once for all parts, and records what the job is."""
    ranges = None
    if options.precision in ("int8", "uint8"):
        sample = [(piece,) for piece in calibration_pieces(pieces)]
        ranges = joined_bounds([bounds for _, bounds in pool.run("bounds", sample)]).tolist()
    job = {**facts, "ranges": ranges}
    folder.keep(job)
    return job
