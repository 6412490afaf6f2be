"""Pushing to the Hub: the trained model when asked, checkpoints while training, as ``hub_strategy`` says."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy, IntervalStrategy
from transformers.utils.hub import hf_api

from ray_st.training.callbacks.tracked_run import WRITTEN
from ray_st.training.checkpoint.store import MANIFEST, PREFIX, SavedCheckpoint
from ray_st.training.worker_context import WorkerContext
from ray_st.util.events import notes

_NOT_OF_THE_MODEL = ["*.pt", "*.pth", "trainer_state.json", MANIFEST]
_NOT_OF_THE_RUN = [
    "_*",
    ".*",
    f"{PREFIX}*",
    "checkpoint_manager_snapshot.json",  # Ray Train's
    "evaluating/*",
    "bad-rows*",
    "ledger.jsonl",
    *(pattern for name in WRITTEN for pattern in (name, f"{name}/*")),
    *_NOT_OF_THE_MODEL,
]


class HubTrainer(Trainer):
    """Uploads; on workers only the first rank does."""

    model: Any
    place: WorkerContext | None
    _pushes: dict[int, list[Future[Any]]]

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the model in ``args.output_dir`` and uploads it to the repository ``args.hub_model_id``.

        Args:
            commit_message: Of the commit.
            blocking: Whether to wait for the end of the upload.
            token: In place of ``args.hub_token``.
            revision: Branch; by default ``args.hub_revision``, or the main one.
            private: Whether a repository that is made here is private; by default ``args.hub_private_repo``.
            kwargs: Arguments of :meth:`create_model_card`.

        Returns:
            What huggingface_hub says of the commit, or a future of it with ``blocking=False``; None but on the first
            rank.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if kwargs:
            self.create_model_card(**kwargs)
        api: Any = hf_api()
        return api.upload_folder(
            repo_id=self.hub_model_id,
            folder_path=str(self.args.output_dir),
            commit_message=commit_message,
            token=token,
            run_as_future=not blocking,
            ignore_patterns=_NOT_OF_THE_RUN,
            revision=revision or self.args.hub_revision,
        )

    def push_checkpoint(self, found: SavedCheckpoint) -> None:
        """Begins to upload a checkpoint, unless the strategy or an upload that is not done yet speak against it.

        Args:
            found: The checkpoint.
        """
        args = self.args
        if not args.push_to_hub or args.hub_strategy == HubStrategy.END:
            return
        if self.pushing() and not args.hub_always_push:
            return
        assert self.place is not None
        self.callback_handler.on_push_begin(args, self.state, self.control)
        folder = self.place.store.fetch(found.name)
        by_steps = args.save_strategy == IntervalStrategy.STEPS
        when = f"step {found.step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        message = f"Training in progress, {when}"
        jobs = [self._upload(folder, message, ignore_patterns=_NOT_OF_THE_MODEL)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = args.hub_strategy == HubStrategy.CHECKPOINT
            target = "last-checkpoint" if last else found.name
            jobs.append(self._upload(folder, f"{message}, checkpoint", path_in_repo=target))
        self._pushes = {**getattr(self, "_pushes", {}), found.step: jobs}

    def _upload(self, folder: Path, message: str, **options: Any) -> Future[Any]:
        repository: Any = self.hub_model_id
        started: Future[Any] = hf_api().upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message=message,
            token=self.args.hub_token,
            run_as_future=True,
            revision=self.args.hub_revision,
            **options,
        )
        return started

    def pushing(self) -> set[int]:
        """Steps of the checkpoints that are being uploaded."""
        pushes = getattr(self, "_pushes", {})
        return {step for step, jobs in pushes.items() if not all(job.done() for job in jobs)}

    def _finish_current_push(self) -> None:
        """Waits for uploads; says which failed: the checkpoints themselves are where the run keeps them."""
        for step, jobs in getattr(self, "_pushes", {}).items():
            for job in jobs:
                error = job.exception()
                if error is not None:
                    notes.warning(
                        f"warning: the checkpoint of step {step} could not be pushed to the Hub: {error}"
                    )
        self._pushes = {}
