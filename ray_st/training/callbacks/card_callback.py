"""The documented methods with which a caller has a say in the model's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class NotesRuns(Protocol):
    """A trainer, as far as its card goes."""

    card_defaults: Mapping[str, Any] | None


class SentenceTransformerModelCardCallback(TrainerCallback):
    """Has a trainer's runs noted in its model's card, as every trainer does by itself.

    For scripts that override ``add_model_card_callback`` in the way of later releases: they add this callback
    and call its ``on_init_end``.

    Args:
        default_args_dict: Training arguments by default; the card names those that differ.
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
        """Tells the trainer to note its runs.

        Args:
            args: Part of transformers' interface.
            state: Likewise.
            control: Likewise.
            trainer: The trainer; without it nothing happens.
            **kwargs: Likewise, such as the model.
        """
        if trainer is not None:
            trainer.card_defaults = self.default_args_dict
