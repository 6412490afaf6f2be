"""The documented methods with which a caller has a say in the model's card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.models.card.render import render_card
from ray_st.training.callbacks.run_description import default_arguments, describe_run, note_surroundings
from ray_st.training.callbacks.tracked_run import TrackingTrainer
from ray_st.training.data.specs import LoaderSpec

Words = str | Sequence[str]


class SentenceTransformerModelCardCallback(TrainerCallback):
    """Has a trainer's runs noted in its model's card, as every trainer does by itself.

    For scripts that override ``add_model_card_callback`` in the way of later releases: they add this callback and call
    its ``on_init_end``.

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
        trainer: CardTrainer | None = None,
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


class CardTrainer(TrackingTrainer):
    """A trainer that writes its model's card.

    Attributes:
        card_defaults: Training arguments by default; the card names those that differ. None where runs are not noted.
    """

    model: Any
    _in_place: bool
    _train_parts: Callable[[int], dict[str, LoaderSpec]]
    card_defaults: Mapping[str, Any] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the loop; see the trainer's method of this name."""
        card = getattr(self.model, "model_card_data", None)
        if self._in_place and card is not None:  # elsewhere the driver does
            self.add_model_card_callback(default_arguments(self.args))
            if self.card_defaults is not None:
                describe_run(self, self._train_parts(self.args.world_size))
        if self.place is not None and card is not None:
            note_surroundings(card, self.place)
        result = super().train(*args, **kwargs)
        self._note_records()
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model with its card, and the weights that losses own.

        Args:
            output_dir: The folder; by default ``args.output_dir``.
            _internal_call: Part of transformers' interface.
        """
        self._note_records()
        super().save_model(output_dir, _internal_call)

    def _note_records(self) -> None:
        """Notes in the card what the run has found out so far."""
        card = getattr(self.model, "model_card_data", None)
        if card is None or not card.trained or not self.state.log_history:
            return
        card.logs = list(self.state.log_history)
        card.best_step = self.state.best_global_step if self.args.load_best_model_at_end else None
        card.emissions = self.emissions or card.emissions

    def add_model_card_callback(self, default_args_dict: Mapping[str, Any]) -> None:
        """Has runs noted in the model's card: data, losses, settings. Called once, when the trainer is made.

        Override it to leave that out, or to add callbacks that note more.

        Args:
            default_args_dict: Training arguments by default.
        """
        self.card_defaults = default_args_dict

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: Words | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: Words | None = None,
        dataset_tags: Words | None = None,
        dataset: Words | None = None,
        dataset_args: Words | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes README.md into ``args.output_dir`` from what is known of the model; the first rank does.

        Args:
            language: Language code.
            license: Licence, such as "apache-2.0".
            tags: Tags to add.
            model_name: The card's title.
            finetuned_from: Name on the Hub of the model that training started from, if that is not known.
            tasks: Tags to add, too.
            dataset_tags: Names on the Hub of the training data, if none are known.
            dataset: Names of the training data, if none are known; goes before ``dataset_tags``.
            dataset_args: Not used: the card has its own facts of the data.
            kwargs: Not used.
        """
        if not self.is_world_process_zero():
            return
        card = self.model.model_card_data
        card.language, card.license = language or card.language, license or card.license
        card.model_name = model_name or card.model_name
        card.add_tags([*_words(tags), *_words(tasks)])
        card.name_model(None, _words(dataset) or _words(dataset_tags))
        if card.base_model is None:
            card.set_base_model(finetuned_from)
        Path(str(self.args.output_dir), "README.md").write_text(
            render_card(self.model, card), encoding="utf-8"
        )


def _words(value: Words | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
