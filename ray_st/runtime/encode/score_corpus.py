"""Scores pairs of texts on the whole cluster: files in, a folder of Parquet files with scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_st.data.sources import Files, SourceError
from ray_st.data.sources.places import Paths
from ray_st.models.attention import of_packages
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import PickledRef
from ray_st.runtime.encode.job import Reranker
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.parts_job import Encoded, PartsJob
from ray_st.runtime.encode.score_work import (
    RowScoring,
    check_new_column,
    choose_columns,
    score_facts,
    score_piece,
)
from ray_st.runtime.encode.work_plan import PART_ROWS, WorkPiece, cut_pieces


class ScoreWorker:
    """Scores pieces in a separate process.

    Args:
        model: The model.
        options: How to score each row.
        folder: The output folder.
    """

    def __init__(self, model: PickledRef[Reranker], options: RowScoring, folder: OutputFolder) -> None:
        self._model, self._options, self._folder = model.open().to(take_granted_device()), options, folder

    def work(self, piece: WorkPiece) -> int:
        """See :func:`ray_st.runtime.encode.score_work.score_piece`."""
        return score_piece(self._model, piece, self._options, self._folder)


def score_corpus(
    model: Reranker,
    source: Files | Paths,
    output: str | Path,
    columns: Sequence[str] = (),
    workers: int | None = None,
    num_gpus: float | None = None,
    part_rows: int = PART_ROWS,
    shared_disk: bool = False,
    show_progress: bool = True,
    **options: Any,
) -> Encoded:
    """Scores the pairs of files into a folder, and resumes where an earlier call was interrupted.

    The output has all columns of the input, and ``score``: the score of the query with the document. With
    several columns of documents, or lists of documents, it has ``scores`` instead, a list in their order; or
    with ``margins``, ``label``. It is written as by
    :func:`ray_st.runtime.encode.corpus.encode_corpus`, with its guarantees.

    Args:
        model: A :class:`~ray_st.CrossEncoder` with one label; each worker gets a copy.
        source: Files of one format, or a folder, pattern or URI of such files, or
            :class:`~ray_st.data.sources.Files`.
        output: The folder, or its URI; created if it does not exist.
        columns: The column of the query, then those of its documents; by default all that hold texts or lists
            of texts, in their order.
        workers: Number of processes; by default as many as the cluster's GPUs (or CPUs) allow.
        num_gpus: GPUs per worker, such as 0.5; by default 1, or 0 (one CPU) on a cluster without GPUs.
        part_rows: Maximum number of rows of a part.
        shared_disk: Whether all nodes see local paths; if not, a job with local paths runs on this node only.
        show_progress: Whether to show a bar on a terminal, and lines elsewhere.
        **options: How to score: ``margins``, ``logits``, ``prompt_name``, ``prompt``, ``batch_size``; see
            :class:`~ray_st.runtime.encode.score_work.RowScoring`.

    Returns:
        The result of the job.

    Raises:
        ValueError: Before anything is scored: if the model, files, columns, options or resources are
            unsuitable, or the folder holds something else. Later: if a row is unusable.
    """
    check_one_label(model)
    files = source if isinstance(source, Files) else Files(source)
    asked, pieces = plan_scoring(files, columns, part_rows, **options)
    folder = OutputFolder.at(output)
    job = PartsJob(
        folder,
        pieces,
        score_facts(model, files, pieces, asked),
        workers,
        num_gpus,
        shared_disk,
        show_progress,
        "scoring",
    )
    return job.run(ScoreWorker, lambda: [PickledRef(model), asked, folder], of_packages(model.modules()))


def plan_scoring(
    files: Files, columns: Sequence[str] = (), part_rows: int = PART_ROWS, **options: Any
) -> tuple[RowScoring, list[WorkPiece]]:
    """How rows are scored, and the pieces of the input; the arguments are those of :func:`score_corpus`.

    Raises:
        SourceError: If files, columns or options are unsuitable.
    """
    kinds = files.columns()
    try:
        asked = RowScoring(choose_columns(kinds, columns), **options)
        check_new_column(kinds, asked)
    except ValueError as error:
        raise SourceError(f"{files.name}: {error}.") from error
    return asked, cut_pieces(files, asked.columns, part_rows)


def check_one_label(model: Reranker) -> None:
    """Checks that a model gives a single score.

    Raises:
        ValueError: If it has several labels.
    """
    if model.num_labels != 1:
        raise ValueError(f"Scoring needs a model with one label; this one has {model.num_labels}.")
