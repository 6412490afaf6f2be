"""A model's way to the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from huggingface_hub import HfApi

from ray_st.models.stack import Stack

_CARD = "README.md"


class PublishedStack(Stack):
    """Modules in a row that can be put on the Hub; subclasses know how they are saved."""

    def push_to_hub(
        self,
        repo_id: str,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str | None = None,
        local_model_path: str | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: Sequence[str] | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads the model into a repository, which is made if it is not there.

        Args:
            repo_id: Name of the repository, with its owner; without, it is the token's.
            token: By default the one that this machine is logged in with.
            private: Whether a repository that is made here is private; by default as its owner has set.
            safe_serialization: Must be True: only safetensors are written.
            commit_message: By default what was added.
            local_model_path: A folder to upload in place of the model as it is now.
            exist_ok: Whether the repository may be there already.
            replace_model_card: Whether its card, if it has one, is replaced.
            train_datasets: Names of the data sets that the model was trained on, for the card.
            revision: Branch; made if it is not there. By default the main one.
            create_pr: Whether to propose the change instead of making it.

        Returns:
            Address of the commit, or of the proposal.

        Raises:
            ValueError: If ``safe_serialization`` is False.
            huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, as where the repository is there already.
        """
        api = HfApi(token=token)
        known = exist_ok or create_pr
        repository = api.create_repo(repo_id, private=private, exist_ok=known).repo_id
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        keeps_card = (
            known and not replace_model_card and api.file_exists(repository, _CARD, revision=revision)
        )
        with tempfile.TemporaryDirectory() as folder:
            if local_model_path is None:
                model: Any = self
                model.save_pretrained(
                    folder,
                    model_name=repository,
                    create_model_card=not keeps_card,
                    train_datasets=train_datasets,
                    safe_serialization=safe_serialization,
                )
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=local_model_path or folder,
                commit_message=commit_message or f"Add new {type(self).__name__} model",
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.pr_url if create_pr else commit.commit_url)

    def save_to_hub(self, repo_id: str, organization: str | None = None, **options: Any) -> str:
        """:meth:`push_to_hub`, by its older name.

        Args:
            repo_id: Name of the repository.
            organization: Its owner, if ``repo_id`` does not name one.
            **options: Arguments of :meth:`push_to_hub`.

        Raises:
            ValueError: If ``repo_id`` names another owner.
        """
        owner, slash, name = repo_id.rpartition("/")
        if organization and slash and owner != organization:
            raise ValueError(f"repo_id={repo_id!r} names another owner than organization={organization!r}.")
        return self.push_to_hub(f"{organization}/{name}" if organization else repo_id, **options)
