"""Files that evaluators write (CSV, predictions), in an object store if the run's folder is there."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
from transformers import TrainerState

from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.filesystems import download, upload
from ray_st.world import World

EVALUATIONS = "eval"
"""Name of evaluators' folder in the run's folder."""


def evaluator_folder(output_dir: str) -> str:
    """The folder for evaluators' files, created if missing.

    Args:
        output_dir: The output folder; in a worker, the local folder of the run.
    """
    folder = Path(output_dir) / EVALUATIONS
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


class EvaluatorFiles(LoopCallback):
    """Keeps evaluators' files in the run's storage; they append rows to a local copy.

    On a disk the local folder is the run's folder, and there is nothing to do.

    Args:
        store: The run's folder.
        world: This rank; only the first one has the files.
    """

    def __init__(self, store: CheckpointStore, world: World) -> None:
        self._store = store
        self._idle = store.is_local or not world.is_first

    def on_open(self, state: TrainerState) -> None:
        """Fetches the files of earlier evaluations, to which rows will be added."""
        there, here = self._store.location(EVALUATIONS), self._store.filesystem
        if self._idle or here.get_file_info(there).type != pafs.FileType.Directory:
            return
        download(here, there, Path(evaluator_folder(str(self._store.local))))

    def after_outputs(self, saved: bool) -> None:
        """Brings the files to storage with each checkpoint: a run that resumes repeats later evaluations."""
        if saved:
            self.bring()

    def on_close(self, state: TrainerState, failed: bool) -> None:
        """Brings the files to storage."""
        self.bring()

    def bring(self) -> None:
        """Copies the files to storage."""
        folder = self._store.local / EVALUATIONS
        if self._idle or not folder.is_dir():
            return
        self._store.check_fence()
        self._store.filesystem.create_dir(self._store.location(EVALUATIONS), recursive=True)
        upload(folder, self._store.filesystem, self._store.location(EVALUATIONS))
