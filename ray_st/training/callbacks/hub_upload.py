"""Pushes to the Hub: the trained model on request, checkpoints during training, by ``hub_strategy``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer_utils import HubStrategy, IntervalStrategy
from transformers.utils.hub import hf_api

from ray_st.data.token_cache import FOLDER
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.callbacks.tracked_run import WRITTEN
from ray_st.training.checkpoint.store import MANIFEST, PREFIX, Settled
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes

_NOT_OF_THE_MODEL = ["*.pt", "*.pth", "trainer_state.json", MANIFEST]
NOT_OF_THE_RUN = [
    "_*",
    ".*",
    f"{PREFIX}*",
    "checkpoint_manager_snapshot.json",  # Ray Train's
    "evaluating/*",
    "bad-rows*",
    "trained-*",
    f"{FOLDER}/*",  # texts can be read from token ids
    "*.arrow",  # such files in another folder that lies in this one
    "ledger.jsonl",
    *(pattern for name in WRITTEN for pattern in (name, f"{name}/*")),
    *_NOT_OF_THE_MODEL,
]


class CheckpointUpload(LoopCallback):
    """Uploads checkpoints from the first rank, according to ``hub_strategy``.

    Args:
        args: Training arguments.
        context: The worker's context.
        repository: Returns the name of the repository, which is created with the trainer.
        on_push: Called before an upload begins.
    """

    def __init__(
        self,
        args: SentenceTransformerTrainingArguments,
        context: WorkerContext,
        repository: Callable[[], str | None],
        on_push: Callable[[], object],
    ) -> None:
        self._args, self._context = args, context
        self._repository, self._on_push = repository, on_push
        self._pushes: dict[int, list[Future[Any]]] = {}

    def on_checkpoint(self, state: TrainerState, settled: Settled) -> None:
        """Starts uploading a checkpoint, unless the strategy or an unfinished upload prevents it."""
        args, checkpoint = self._args, settled.checkpoint
        if checkpoint is None or not self._context.world.is_first:
            return
        if not args.push_to_hub or args.hub_strategy == HubStrategy.END:
            return
        if self.pushing() and not args.hub_always_push:
            return
        self._on_push()
        folder = self._context.store.fetch(checkpoint.name, verifies=False)
        by_steps = args.save_strategy == IntervalStrategy.STEPS
        when = f"step {checkpoint.step}" if by_steps else f"epoch {int(checkpoint.manifest['epoch'] or 0)}"
        message = f"Training in progress, {when}"
        jobs = [self._upload(folder, message, ignore_patterns=_NOT_OF_THE_MODEL)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = args.hub_strategy == HubStrategy.CHECKPOINT
            target = "last-checkpoint" if last else checkpoint.name
            jobs.append(self._upload(folder, f"{message}, checkpoint", path_in_repo=target))
        self._pushes[checkpoint.step] = jobs

    def _upload(self, folder: Path, message: str, **options: Any) -> Future[Any]:
        repository: Any = self._repository()
        started: Future[Any] = hf_api().upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message=message,
            token=self._args.hub_token,
            run_as_future=True,
            revision=self._args.hub_revision,
            **options,
        )
        return started

    def pushing(self) -> set[int]:
        """Steps of the checkpoints that are being uploaded."""
        return {step for step, jobs in self._pushes.items() if not all(job.done() for job in jobs)}

    def finish(self) -> None:
        """Waits for uploads and logs failed ones; the checkpoints themselves stay in the run's storage."""
        for step, jobs in self._pushes.items():
            for job in jobs:
                error = job.exception()
                if error is not None:
                    notes.warning(
                        f"warning: the checkpoint of step {step} could not be pushed to the Hub: {error}"
                    )
        self._pushes = {}
