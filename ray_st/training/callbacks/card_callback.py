"""The documented callback through which callers control the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class NotesRuns(Protocol):
    """The part of a trainer that concerns its model card."""

    card_defaults: Mapping[str, Any] | None


class SentenceTransformerModelCardCallback(TrainerCallback):
    """Records a trainer's runs in its model card, as every trainer does by default.

    For scripts that override ``add_model_card_callback`` as in later releases: they add this callback and
    call its ``on_init_end``.

    Args:
        default_args_dict: Default training arguments; the card lists those that differ.
    """

    def __init__(self, default_args_dict: Mapping[str, Any]) -> None:
        self.default_args_dict = default_args_dict

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        trainer: NotesRuns | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes the trainer record its runs.

        Args:
            args: Part of transformers' interface.
            state: Likewise.
            control: Likewise.
            trainer: The trainer; without it nothing happens.
            **kwargs: Likewise, such as the model.
        """
        if trainer is not None:
            trainer.card_defaults = self.default_args_dict
