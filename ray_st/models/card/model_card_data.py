"""Facts about a model, from which its card is written; secrets and local paths are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import nn

from ray_st.models.card.run_facts import Cluster, Emissions

_NAMES = re.compile(
    r"token$|secret|password|api_?key|credential|_dir$|_path$|_url$|^hub_|resume_from|^run_name$|_folder$"
)
_TOKENS = re.compile(r"\b(hf_\w{8,}|gh[opsu]_\w{16,}|sk-[\w-]{16,}|AKIA\w{12,})|://[^/\s]*@")
PATH, SECRET = "(path)", "(secret)"


def publishable(value: object) -> Any:
    """A copy of settings that is safe to show in a card.

    Settings named like secrets or locations are left out; values that are paths, or look like keys, are
    replaced.

    Args:
        value: A value; mappings, lists and tuples are searched.
    """
    if isinstance(value, Mapping):
        shown = {name: inner for name, inner in value.items() if not _NAMES.search(str(name))}
        return {str(name): publishable(inner) for name, inner in shown.items()}
    if isinstance(value, list | tuple):
        return [publishable(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if _TOKENS.search(value):
        return SECRET
    return PATH if _is_path(value) else value


def _is_path(text: str) -> bool:
    begins = text.startswith(("~", "./", "../", ".\\", "..\\", "file:"))
    return begins or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TASK = (
    "semantic textual similarity, semantic search, paraphrase mining, classification, clustering, and more"
)
_TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense")
_RERANKER_TAGS = ("sentence-transformers", "cross-encoder", "reranker")
_TRAINED = "generated_from_trainer"
_SIZE = "dataset_size:"
_STATED = "said"
UNNAMED = "unnamed"
"""Name of a dataset that has none."""


@dataclass
class Scores:
    """The results of an evaluator.

    Args:
        name: The evaluator's class.
        description: What it measures, in words.
        dataset: Name of its data.
        metrics: Metrics by name.
        epoch: Epoch of the evaluation; -1 if unknown.
        steps: Step of the evaluation; -1 if unknown.
        primary: Name of the metric by which models are compared.
        shown: Texts that the table shows in place of some of the numbers, such as ``0.6335 (+0.2101)``.
    """

    name: str
    description: str
    dataset: str
    metrics: dict[str, float]
    epoch: float = -1
    steps: int = -1
    primary: str | None = None
    shown: dict[str, str] = field(default_factory=dict)


@dataclass
class ModelCardData:
    """Facts about a model of any kind; see the subclasses."""

    language: str | list[str] | None = None
    license: str | None = None
    model_name: str | None = None
    model_id: str | None = None
    train_datasets: list[dict[str, Any]] = field(default_factory=list)
    eval_datasets: list[dict[str, Any]] = field(default_factory=list)
    task_name: str = ""
    tags: list[str] = field(default_factory=list)
    local_files_only: bool = False
    generate_widget_examples: bool = True

    base_model: str | None = field(default=None, init=False)
    base_model_revision: str | None = field(default=None, init=False)
    losses: list[str] = field(default_factory=list, init=False)
    citations: dict[str, str] = field(default_factory=dict, init=False)
    hyperparameters: dict[str, Any] = field(default_factory=dict, init=False)
    all_hyperparameters: dict[str, Any] = field(default_factory=dict, init=False)
    scores: list[Scores] = field(default_factory=list, init=False)
    logs: list[dict[str, Any]] = field(default_factory=list, init=False)
    best_step: int | None = field(default=None, init=False)
    cluster: Cluster | None = field(default=None, init=False)
    emissions: Emissions | None = field(default=None, init=False)
    widget: list[dict[str, Any]] = field(default_factory=list, init=False)
    versions: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.train_datasets = [_named(entry) for entry in self.train_datasets]
        self.eval_datasets = [_named(entry) for entry in self.eval_datasets]

    @property
    def trained(self) -> bool:
        """Whether the model was trained, so that its old card is out of date."""
        return bool(self.losses) or _TRAINED in self.tags

    def set_base_model(self, name: str | None, revision: str | None = None) -> None:
        """Records the model that this one started from, if it is on the Hub; local paths are not recorded."""
        if name is not None and _is_hub_name(name):
            self.base_model, self.base_model_revision = name, revision

    def name_model(self, model_name: str | None, train_datasets: Sequence[str] | None) -> None:
        """Records the arguments of ``save_pretrained`` unless these facts are already known.

        Args:
            model_name: Name on the Hub; local paths are ignored.
            train_datasets: Names of datasets.
        """
        if model_name and not self.model_id and _is_hub_name(model_name):
            self.model_id = model_name
        if train_datasets and not self.train_datasets:
            self.train_datasets = [_named(name) for name in train_datasets]

    def add_tags(self, tags: str | Sequence[str]) -> None:
        """Adds tags, without duplicates."""
        wanted = [tags] if isinstance(tags, str) else tags
        self.tags += [tag for tag in dict.fromkeys(wanted) if tag not in self.tags]

    def set_losses(self, losses: Sequence[object]) -> None:
        """Records the losses of a training run, and thereby that the model was trained.

        Args:
            losses: Loss modules. Losses within them are listed too; those with a ``citation`` are cited.
        """
        known = [part for loss in losses for part in _nested(loss)]
        self.losses = list(dict.fromkeys(type(loss).__name__ for loss in known))
        self.citations = {type(loss).__name__: text for loss in known if (text := _text_of(loss, "citation"))}
        self.add_tags([_TRAINED, *(f"loss:{name}" for name in self.losses)])

    def set_train_dataset_metadata(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Records the training data.

        Args:
            datasets: One dict per dataset: ``name``, ``id`` and ``revision`` (on the Hub), ``size`` (rows),
                ``columns`` (names), ``loss`` (a name), ``loss_settings`` (by name), ``statistics`` (a dict
                per column, from ``counted`` rows), ``samples`` (a few rows, each a list of values); all
                except the name are optional.
        """
        self.train_datasets = _merged(self.train_datasets, datasets)
        self._tag_size()

    def set_train_dataset_sizes(self, sizes: Sequence[int]) -> None:
        """Records the number of rows of each training dataset whose size was unknown."""
        for entry, size in zip(self.train_datasets, sizes, strict=False):
            entry.setdefault("size", size)
        self._tag_size()

    def _tag_size(self) -> None:
        rows = sum(entry.get("size") or 0 for entry in self.train_datasets)
        self.tags = [tag for tag in self.tags if not tag.startswith(_SIZE)]
        self.add_tags([f"{_SIZE}{rows}"] if rows else [])

    def set_eval_dataset_metadata(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Records the evaluation data; see :meth:`set_train_dataset_metadata`."""
        self.eval_datasets = _merged(self.eval_datasets, datasets)

    def set_hyperparameters(self, changed: Mapping[str, Any], every: Mapping[str, Any] | None = None) -> None:
        """Records the settings of a training run, except those that could contain a secret or a path.

        Args:
            changed: Settings that differ from their defaults, by name.
            every: All settings by name.
        """
        self.hyperparameters = _shown(changed)
        self.all_hyperparameters = _shown(every or {})

    def set_evaluation_metrics(
        self, evaluator: object, metrics: Mapping[str, float | str], epoch: float = -1, steps: int = -1
    ) -> None:
        """Records the results of an evaluator; later results of the same evaluator replace earlier ones.

        Args:
            evaluator: Its ``name``, ``description`` and ``primary_metric`` are used, if it has them.
            metrics: Metrics by name. A text that begins with a number, as in ``0.6335 (+0.2101)``, stands for
                that number, and is shown as it is.
            epoch: Epoch of the evaluation.
            steps: Step of the evaluation.
        """
        kind, name = type(evaluator).__name__, _text_of(evaluator, "name") or ""
        description = _text_of(evaluator, "description") or kind.removesuffix("Evaluator")
        shown = {key: text for key, text in metrics.items() if isinstance(text, str)}
        values = {key: _first_number(value) for key, value in metrics.items()}
        numbers = {key: value for key, value in values.items() if value is not None}
        primary = _text_of(evaluator, "primary_metric")
        new = Scores(kind, description, name, numbers, epoch, steps, primary, shown)
        kept = [old for old in self.scores if (old.name, old.dataset) != (kind, name)]
        self.scores = [*kept, new]

    def set_widget_examples(self, examples: Sequence[Mapping[str, Any]]) -> None:
        """Records examples for the Hub's widget: dicts with ``source_sentence`` and ``sentences``."""
        self.widget = [dict(example) for example in examples]


@dataclass
class SentenceTransformerModelCardData(ModelCardData):
    """Facts about a model for its card. The trainer fills in its own; the Hub is never queried.

    Args:
        language: One or more language codes.
        license: The license, such as "apache-2.0".
        model_name: A readable name, used as the card's title.
        model_id: Name on the Hub.
        train_datasets: One dict per dataset, with ``name`` and, if it is on the Hub, ``id``;
            :meth:`set_train_dataset_metadata` adds more keys.
        eval_datasets: The same for the evaluation data.
        task_name: Intended use, in words.
        tags: Tags of the card.
        local_files_only: Kept for older scripts; the Hub is never queried.
        generate_widget_examples: Whether the trainer takes widget examples from its data.
    """

    task_name: str = _TASK
    tags: list[str] = field(default_factory=lambda: list(_TAGS))


@dataclass
class CrossEncoderModelCardData(ModelCardData):
    """Facts about a reranker for its card. The trainer fills in its own; the Hub is never queried.

    Args:
        language: One or more language codes.
        license: The license, such as "apache-2.0".
        model_name: A readable name, used as the card's title.
        model_id: Name on the Hub.
        train_datasets: One dict per dataset, with ``name`` and, if it is on the Hub, ``id``;
            :meth:`set_train_dataset_metadata` adds more keys.
        eval_datasets: The same for the evaluation data.
        task_name: Intended use, in words. By default told from the number of labels.
        tags: Tags of the card.
        local_files_only: Kept for older scripts; the Hub is never queried.
        generate_widget_examples: Whether the trainer takes the card's example from its data.
    """

    tags: list[str] = field(default_factory=lambda: list(_RERANKER_TAGS))


def _named(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    known = dict(entry)
    if not known.get("name") and not known.get("id"):
        raise ValueError(f"A dataset of a model card needs a name or an id; got {known}.")
    others = {key: value for key, value in known.items() if key != "name"}
    return {"name": str(known.get("name") or known["id"]), **others}


def _merged(known: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The found facts of each dataset, overridden by the user's; facts found earlier are dropped."""
    stated = [dict(entry.get(_STATED, entry)) for entry in known]
    stated += [{}] * (len(found) - len(stated))
    pairs = zip(found, stated, strict=False)
    merged = [_named({**entry, **own, _STATED: own}) for entry, own in pairs]
    return merged + [own for own in stated[len(found) :] if own]


def _nested(loss: object) -> list[object]:
    """A loss and those within it."""
    inner = dict(loss.named_children()).get("loss") if isinstance(loss, nn.Module) else None
    return [loss] if inner is None else [loss, *_nested(inner)]


def _text_of(part: object, name: str) -> str | None:
    """A text that a user's loss or evaluator may have as an attribute."""
    value = getattr(part, name, None)
    return value if isinstance(value, str) else None


def _first_number(value: object) -> float | None:
    """A metric, or the number that a text begins with; None for anything else."""
    if isinstance(value, str):
        found = re.match(r"-?\d+(\.\d+)?\b", value)
        return float(found[0]) if found else None
    return float(value) if isinstance(value, int | float) else None


def _is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the card may show; those that are paths are left out."""
    return {name: value for name, value in publishable(settings).items() if value != PATH}
