"""What a training run tells the model's card: data, losses, changed settings, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
from torch import nn

from ray_st.training.parts import loss_for
from ray_st.training.run import TRAIN_FEED, DataPart, FeedPart, eval_names
from ray_st.training.step import LossOrLosses, losses_of
from ray_st.training_args import SentenceTransformerTrainingArguments

_SAMPLES = 3


def describe_run(trainer: Any, parts: Mapping[str, FeedPart]) -> None:
    """Notes a run in the card of the model that it trains, before it starts.

    Args:
        trainer: The driver's trainer.
        parts: The run's datasets, by feed name.
    """
    card = getattr(trainer.model, "model_card_data", None)
    if card is None:
        return
    card.set_losses(list(losses_of(trainer.loss).values()))
    if TRAIN_FEED in parts:
        card.set_train_dataset_metadata(_facts("train", parts[TRAIN_FEED], trainer.loss))
    evals = [facts for part in eval_names(parts).values() for facts in _facts("eval", part, trainer.loss)]
    card.set_eval_dataset_metadata(evals)
    card.set_hyperparameters(changed_arguments(trainer.args, trainer.card_defaults))


def default_arguments(args: SentenceTransformerTrainingArguments) -> dict[str, Any]:
    """What the arguments are by default."""
    return type(args)(output_dir=args.output_dir, use_cpu=True).to_dict()


def changed_arguments(
    args: SentenceTransformerTrainingArguments, default: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that differ from their defaults."""
    return {
        name: value
        for name, value in args.to_dict().items()
        if name in default and value != default[name] and name not in ("use_cpu", "logging_dir")
    }


def _facts(kind: str, part: FeedPart, loss: LossOrLosses) -> list[dict[str, Any]]:
    return [
        _dataset_facts(name or kind, dataset, loss_for(loss, name, dataset.label))
        for name, dataset in part.datasets.items()
    ]


def _dataset_facts(name: str, part: DataPart, loss: nn.Module) -> dict[str, Any]:
    columns = list(part.encoding.columns.names)
    facts: dict[str, Any] = {"name": name, "columns": columns, "loss": type(loss).__name__}
    if isinstance(part.source, datasets.Dataset):
        rows = part.source.select_columns(columns)
        facts["size"] = len(part.source)
        facts["samples"] = [list(row.values()) for row in rows.select(range(min(_SAMPLES, len(rows))))]
    return facts
