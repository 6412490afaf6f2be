"""Encodes a corpus of any size on the whole cluster: files in, a folder of Parquet files with vectors out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ray_st.data.sources import Files
from ray_st.data.sources.places import Paths
from ray_st.models.attention import of_packages
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.cluster.actor_pool import ActorPool
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import PickledRef
from ray_st.runtime.encode.job import EncodeOptions, facts_of
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.parts_job import Encoded, PartsJob
from ray_st.runtime.encode.work import bounds_of, calibration_pieces, encode_piece, joined_bounds
from ray_st.runtime.encode.work_plan import PART_ROWS, WorkPiece, plan_pieces


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

    def work(self, piece: WorkPiece, ranges: np.ndarray | None) -> int:
        """See :func:`ray_st.runtime.encode.work.encode_piece`."""
        return encode_piece(self._model, piece, self._options, self._folder, ranges)


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
    facts = facts_of(model, files, pieces, asked)
    folder = OutputFolder.at(output)
    job = PartsJob(folder, pieces, facts, workers, num_gpus, shared_disk, show_progress)
    return job.run(
        CorpusWorker,
        lambda: [PickledRef(model), asked, folder],
        of_packages([model]),
        begin=lambda pool: {"ranges": _ranges(pool, pieces, asked)},
        extra=lambda job: (None if job["ranges"] is None else np.asarray(job["ranges"], dtype=np.float32),),
    )


def _ranges(pool: ActorPool, pieces: list[WorkPiece], options: EncodeOptions) -> list[list[float]] | None:
    """The ranges of int8 and uint8, once for all parts."""
    if options.precision not in ("int8", "uint8"):
        return None
    sample = [(piece,) for piece in calibration_pieces(pieces)]
    ranges: list[list[float]] = joined_bounds([bounds for _, bounds in pool.run("bounds", sample)]).tolist()
    return ranges
