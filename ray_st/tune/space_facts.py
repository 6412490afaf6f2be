"""What the default space is chosen by, read from a trainer."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from torch import nn

from ray_st.data.sources import Source
from ray_st.model_trainer import ModelTrainer
from ray_st.models.static_embedding import StaticEmbedding
from ray_st.study.default_space import DefaultSpace, SpaceFacts, chosen_space
from ray_st.training.data.dataset_specs import named, opened
from ray_st.training.strategies.step_module import losses_of
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.tune.identity import most_workers

_COUNTED_HERE = 2**30
"""Most bytes of CSV and JSON Lines that are gone through on the driver to count rows: a second or so."""


def default_space(trainer: ModelTrainer, makes_data: bool = False) -> DefaultSpace:
    """The space of ``hp_space="default"``, which one of your own can contain: ``{**default(trial), ...}``.

    Args:
        trainer: The trainer, with ``model_init``.
        makes_data: Whether each trial makes its own data (``data_init``).

    Returns:
        A function of a trial; as text, it says the reasons.
    """
    return chosen_space(facts_of(trainer, makes_data))


def facts_of(trainer: ModelTrainer, makes_data: bool) -> SpaceFacts:
    """The facts about a trainer's model, loss, data and arguments.

    Args:
        trainer: The trainer, with the model and loss that it made.
        makes_data: Whether each trial makes its own data.
    """
    weights = list(trainer.model.parameters())
    losses = list(losses_of(trainer.loss).values())
    args = trainer.args
    return SpaceFacts(
        weights=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        has_layers=not any(isinstance(part, StaticEmbedding) for part in trainer.model.modules()),
        rows=None if makes_data else _rows(trainer.train_dataset),
        compares_rows=any(getattr(loss, "in_batch_negatives", False) for loss in losses),
        bounded_memory=all(_is_cached(loss) for loss in losses),
        ranks=most_workers(trainer.scaling_config) * args.gradient_accumulation_steps,
        lr_scheduler_type=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        fixed=_fixed(args),
    )


def _is_cached(loss: nn.Module) -> bool:
    return any(getattr(loss, name, None) for name in ("mini_batch_size", "mini_batch_num_tokens"))


def _rows(dataset: Any) -> int | None:
    """Rows of one dataset or of several by name; None if one cannot be counted at once."""
    counts = [_count(opened(part, name)) for name, part in named(dataset).items()]
    return None if None in counts else sum(count for count in counts if count is not None)


def _count(source: Any) -> int | None:
    if isinstance(source, Dataset):
        return len(source)
    parts = source.parts() if isinstance(source, Source) else []
    if sum(part.uncounted for part in parts) > _COUNTED_HERE:
        return None
    parts = [part.counted() for part in parts]
    if not parts or not all(part.seekable for part in parts):
        return None  # a stream, or a Ray Dataset, whose length may take as long as making it
    return sum(part.count() for part in parts)


def _fixed(args: SentenceTransformerTrainingArguments) -> dict[str, str]:
    """Arguments that others decide, and which one."""
    deciding = {
        "num_train_epochs": {"max_steps": args.max_steps > 0},
        "per_device_train_batch_size": {
            "global_train_batch_size": args.global_train_batch_size is not None,
            "dataset_batch_sizes": bool(args.dataset_batch_sizes),
            "auto_find_batch_size": args.auto_find_batch_size,
        },
        "warmup_ratio": {"warmup_steps": bool(args.warmup_steps)},
    }
    found = {name: [by for by, set_ in others.items() if set_] for name, others in deciding.items()}
    return {name: by[0] for name, by in found.items() if by}
