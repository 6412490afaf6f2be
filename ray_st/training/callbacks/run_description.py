"""What a training run records in the model card: data, losses, settings, cluster, versions."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import datasets
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st._version import __version__
from ray_st.data.located import read_located
from ray_st.data.sources import HfStream, Source, Sql
from ray_st.models.card.model_card_data import UNNAMED, SentenceTransformerModelCardData, publishable
from ray_st.models.card.run_facts import Cluster, Emissions
from ray_st.models.card.tables import column_statistics
from ray_st.models.stack import Stack
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec, eval_names
from ray_st.training.distributed import collectives
from ray_st.training.strategies.step_module import LossOrLosses, loss_for, losses_of
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import SentenceTransformerTrainingArguments

_SAMPLES, _COUNTED, _WIDGETS, _SEEN = 3, 100, 5, 1000
_VERSIONS = ("transformers", "torch", "accelerate", "datasets", "tokenizers")
_ON_HUB = re.compile(r"hf://datasets/([^@/]+/[^@/]+|[^@/]+)@(\w+)/")
_OF_THE_MACHINE = ("use_cpu", "logging_dir", "local_rank", "token_cache", "token_cache_bytes")


def describe_run(
    card: SentenceTransformerModelCardData | None,
    model: nn.Module,
    loss: LossOrLosses,
    args: SentenceTransformerTrainingArguments,
    specs: Mapping[str, LoaderSpec],
    defaults: Mapping[str, Any],
) -> None:
    """Records a run in its model's card before it starts.

    Args:
        card: The data of the model's card; None for a model without one.
        model: The model.
        loss: The loss, or one for each dataset.
        args: Training arguments.
        specs: The run's datasets, by the name of their source.
        defaults: Default training arguments.
    """
    if card is None:
        return
    card.set_losses(list(losses_of(loss).values()))
    count = _token_counter(model)
    if TRAIN in specs:
        card.set_train_dataset_metadata(_facts(specs[TRAIN], loss, count))
        if card.generate_widget_examples and not card.widget:
            card.set_widget_examples(widget_examples(map(_texts, specs[TRAIN].datasets.values())))
    evals = [
        {**facts, "name": name or facts["name"]}
        for name, part in eval_names(specs).items()
        for facts in _facts(part, loss, count)
    ]
    card.set_eval_dataset_metadata(evals)
    every = {name: value for name, value in args.to_dict().items() if name not in _OF_THE_MACHINE}
    card.set_hyperparameters(changed_arguments(args, defaults), every)


def default_arguments(args: SentenceTransformerTrainingArguments) -> dict[str, Any]:
    """The default values of training arguments.

    Args:
        args: The arguments.
    """
    default: dict[str, Any] = type(args)(output_dir=args.output_dir, use_cpu=True).to_dict()
    return default


def changed_arguments(
    args: SentenceTransformerTrainingArguments, default: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that differ from their defaults."""
    return {
        name: value
        for name, value in args.to_dict().items()
        if name in default and value != default[name] and name not in _OF_THE_MACHINE
    }


# ---- data ----


def _facts(
    part: LoaderSpec, loss: LossOrLosses, count: Callable[[list[str]], list[int]] | None
) -> list[dict[str, Any]]:
    return [
        _dataset_facts(name, dataset, loss_for(loss, name, dataset.label), count)
        for name, dataset in part.datasets.items()
    ]


def _dataset_facts(
    name: str, part: DatasetSpec, loss: nn.Module, count: Callable[[list[str]], list[int]] | None
) -> dict[str, Any]:
    source, counted = part.source, _first_rows(part, _COUNTED)
    columns = list(part.encoding.columns.names)
    facts: dict[str, Any] = {"name": name or UNNAMED, "columns": columns, **_on_hub(source)}
    if isinstance(source, datasets.Dataset):
        facts["size"] = len(source)
    facts["loss"] = type(loss).__name__
    settings: dict[str, Any] = getattr(loss, "get_config_dict", dict)()
    facts["loss_settings"] = publishable({key: _plain(value) for key, value in settings.items()})
    if counted:
        facts["counted"] = len(counted)
        facts["statistics"] = [
            column_statistics(column, [row[column] for row in counted], count) for column in columns
        ]
        facts["samples"] = [list(row.values()) for row in counted[:_SAMPLES]]
    return facts


def _plain(value: object) -> Any:
    """A setting as a JSON value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str | int | float | None):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _first_rows(part: DatasetSpec, count: int) -> list[dict[str, Any]]:
    """The first rows of data at hand; Ray Datasets, queries and streams are not executed for the card."""
    columns, source = list(part.encoding.columns.names), part.source
    if isinstance(source, datasets.Dataset):
        chosen = source.select(range(min(count, len(source)))).select_columns(columns)
        return [{name: row[name] for name in columns} for row in chosen]
    if not isinstance(source, Source) or _is_run_to_be_read(source):
        return []
    first = next((table for one in source.parts(columns) for table in read_located(one) if len(table)), None)
    return [] if first is None else first.select(columns).slice(0, count).to_pylist()


def _is_run_to_be_read(source: object) -> bool:
    # Cuts and choices of other sources hold these, and so may a user's own source.
    inside = [*getattr(source, "sources", ()), getattr(source, "source", None)]
    return isinstance(source, Sql | HfStream) or any(
        _is_run_to_be_read(one) for one in inside if one is not None
    )


def _texts(part: DatasetSpec) -> list[list[str]]:
    """The texts of some rows, for the widget."""
    rows = [[value for value in row.values() if isinstance(value, str)] for row in _first_rows(part, _SEEN)]
    return [texts for texts in rows if texts and all(texts)]


def _on_hub(source: Any) -> dict[str, str]:
    """Hub name and revision of a dataset that was loaded from the Hub."""
    match source:
        case object(info=object(download_checksums=dict(files))):
            matches = filter(None, (_ON_HUB.match(str(file)) for file in files))
            return next(({"id": found[1], "revision": found[2]} for found in matches), {})
    return {}


def widget_examples(data: Iterable[Sequence[list[str]]]) -> list[dict[str, Any]]:
    """Examples for the Hub's widget: short texts from the data, each with up to three others.

    Args:
        data: For each dataset the texts of some rows.
    """
    examples: list[dict[str, Any]] = []
    for rows in data:
        short = sorted(rows, key=lambda texts: sum(map(len, texts)))[: _WIDGETS + _SAMPLES]
        for i, (first, *others) in enumerate(short[:_WIDGETS]):
            more = [texts[-1] for texts in (*short[i + 1 :], *short[:i])]
            sentences = [text for text in dict.fromkeys([*others, *more]) if text != first]
            if sentences:
                examples.append({"source_sentence": first, "sentences": sentences[:_SAMPLES]})
    return examples[:: max(len(examples) // _WIDGETS, 1)][:_WIDGETS]


def _token_counter(model: nn.Module) -> Callable[[list[str]], list[int]] | None:
    """A function that counts the tokens the model sees in texts; None if it takes no token ids."""
    if not isinstance(model, Stack) or model.token_encoder() is None or not callable(model.tokenizer):
        return None
    tokenizer = model.tokenizer
    longest = model.max_seq_length or 10**6

    def count(texts: list[str]) -> list[int]:
        return [min(len(ids), longest) for ids in tokenizer(texts, verbose=False)["input_ids"]]

    return count


# ---- environment and records ----


def note_surroundings(card: SentenceTransformerModelCardData | None, context: WorkerContext) -> None:
    """Records a run's cluster, versions and sizes in its model's card, if any; every rank must call it.

    Args:
        card: The data of the model's card, or None.
        context: The worker's context.
    """
    if card is None:
        return
    found = collectives.gather_objects((_device(), context.world.node_rank))
    nodes = {node for _, node in found}
    devices = tuple(device for device, _ in found)
    card.cluster = Cluster(len(found), len(nodes), devices, importlib.metadata.version("ray"))
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    card.versions = {"python": platform.python_version(), "ray_st": __version__, **versions}
    if context.train is not None:
        card.set_train_dataset_sizes([len(window) for window in context.train.windows])


def note_records(
    card: SentenceTransformerModelCardData | None,
    state: TrainerState,
    args: SentenceTransformerTrainingArguments,
    emissions: Emissions | None,
) -> None:
    """Records a run's results so far in the model's card.

    Args:
        card: The data of the model's card, or None.
        state: The trainer's state.
        args: Training arguments.
        emissions: The run's emissions, if measured.
    """
    if card is None or not card.trained or not state.log_history:
        return
    card.logs = list(state.log_history)
    card.best_step = state.best_global_step if args.load_best_model_at_end else None
    card.emissions = emissions or card.emissions


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


# ---- the documented callback ----


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
