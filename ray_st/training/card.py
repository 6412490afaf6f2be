"""What a training run tells the model's card: data, losses, changed settings, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from ray_st.training.run import TRAIN_FEED, DataPart, eval_names
from ray_st.training.step import losses_of
from ray_st.training_args import SentenceTransformerTrainingArguments

_SAMPLES = 3


def describe_run(trainer: Any, parts: Mapping[str, DataPart]) -> None:
    """Notes a run in the card of the model that it trains, before it starts.

    Args:
        trainer: The driver's trainer.
        parts: The run's datasets, by feed name.
    """
    card = getattr(trainer.model, "model_card_data", None)
    if card is None:
        return
    card.set_losses(list(losses_of(trainer.loss).values()))
    loss = type(next(iter(losses_of(trainer.loss).values()))).__name__
    if TRAIN_FEED in parts:
        card.set_train_dataset_metadata([_facts("train", parts[TRAIN_FEED], loss)])
    card.set_eval_dataset_metadata(
        [_facts(name or "eval", part, loss) for name, part in eval_names(parts).items()]
    )
    card.set_hyperparameters(changed_arguments(trainer.args))


def changed_arguments(args: SentenceTransformerTrainingArguments) -> dict[str, Any]:
    """The arguments that differ from their defaults."""
    default = type(args)(output_dir=args.output_dir, use_cpu=True).to_dict()
    return {
        name: value
        for name, value in args.to_dict().items()
        if name in default and value != default[name] and name not in ("use_cpu", "logging_dir")
    }


def _facts(name: str, part: DataPart, loss: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "columns": list(part.encoding.columns.names), "loss": loss}
    if isinstance(part.source, datasets.Dataset):
        columns = part.source.select_columns(list(part.encoding.columns.names))
        facts["size"] = len(part.source)
        facts["samples"] = [list(row.values()) for row in columns.select(range(min(_SAMPLES, len(columns))))]
    return facts
