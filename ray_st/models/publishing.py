"""Uploading a model to the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from huggingface_hub import HfApi

_CARD = "README.md"


class Published:
    """A model that can be uploaded to the Hub; subclasses define how it is saved."""

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
        """Uploads the model into a repository, which is created if it does not exist.

        Args:
            repo_id: Name of the repository, with its owner; the default owner is the token's.
            token: By default the one that this machine is logged in with.
            private: Whether a newly created repository is private; the default is its owner's setting.
            safe_serialization: Must be True: only safetensors are written.
            commit_message: By default says which kind of model was added.
            local_model_path: A folder to upload in place of the current model.
            exist_ok: Whether the repository may already exist.
            replace_model_card: Whether to replace its card, if it has one.
            train_datasets: Names of the datasets that the model was trained on, for the card.
            revision: Branch; created if it does not exist. By default the main one.
            create_pr: Whether to open a pull request instead of committing.

        Returns:
            URL of the commit or the pull request.

        Raises:
            ValueError: If ``safe_serialization`` is False.
            huggingface_hub.errors.HfHubHTTPError: If the Hub rejects the request, for example because the
                repository already exists.
        """
        api = HfApi(token=token)
        known = exist_ok or create_pr
        repository = api.create_repo(repo_id, private=private, exist_ok=known).repo_id
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        replaceable = replace_model_card or not known
        keeps_card = not replaceable and api.file_exists(repository, _CARD, revision=revision)
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
        """The older name of :meth:`push_to_hub`.

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
