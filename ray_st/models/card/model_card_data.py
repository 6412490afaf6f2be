"""What is known about a model, from which its card is written; secrets and local paths are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ray_st.models.card.run_facts import Cluster, Emissions

_NAMES = re.compile(
    r"token$|secret|password|api_?key|credential|_dir$|_path$|_url$|^hub_|resume_from|^run_name$|_folder$"
)
_TOKENS = re.compile(r"\b(hf_\w{8,}|gh[opsu]_\w{16,}|sk-[\w-]{16,}|AKIA\w{12,})|://[^/\s]*@")
PATH, SECRET = "(path)", "(secret)"


def publishable(value: Any) -> Any:
    """A copy of settings as a card may show them.

    What has the name of a secret or of a place is left out; texts that are paths, or look like keys, are replaced.

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
_TRAINED = "generated_from_trainer"
_SIZE = "dataset_size:"
_SAID = "said"
UNNAMED = "unnamed"
"""Name of a data set that has none."""


@dataclass
class Scores:
    """What an evaluator found.

    Args:
        name: The evaluator's class.
        description: What it measures, in words.
        dataset: Name of its data.
        metrics: Each figure by its name.
        epoch: When, in passes over the data; -1 if not known.
        steps: When, in steps; -1 if not known.
        primary: Name of the metric by which models are compared.
    """

    name: str
    description: str
    dataset: str
    metrics: dict[str, float]
    epoch: float = -1
    steps: int = -1
    primary: str | None = None


@dataclass
class SentenceTransformerModelCardData:
    """What is known about a model. The trainer fills in what it learns; nothing is asked of the Hub.

    Args:
        language: Language code, or several.
        license: Its licence, such as "apache-2.0".
        model_name: A readable name, the card's title.
        model_id: Name on the Hub.
        train_datasets: One dict a data set, with ``name`` and, if it is on the Hub, ``id``; more keys are what
            :meth:`set_train_dataset_metadata` adds.
        eval_datasets: The same of the evaluation data.
        task_name: What it is for, in words.
        tags: Tags of the card.
        local_files_only: Kept for older scripts; the Hub is never asked.
        generate_widget_examples: Whether the trainer takes examples from its data.
    """

    language: str | list[str] | None = None
    license: str | None = None
    model_name: str | None = None
    model_id: str | None = None
    train_datasets: list[dict[str, Any]] = field(default_factory=list)
    eval_datasets: list[dict[str, Any]] = field(default_factory=list)
    task_name: str = _TASK
    tags: list[str] = field(default_factory=lambda: list(_TAGS))
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
        """Whether the model is no longer the one that its old card describes."""
        return bool(self.losses) or _TRAINED in self.tags

    def set_base_model(self, name: str | None, revision: str | None = None) -> None:
        """Notes the model that this one started from, if it is one of the Hub: a folder's path is nobody's business."""
        if name is not None and _HUB_NAME.fullmatch(name) and not Path(name).exists():
            self.base_model, self.base_model_revision = name, revision

    def name_model(self, model_name: str | None, train_datasets: Sequence[str] | None) -> None:
        """Takes over what a call of ``save_pretrained`` says, where nothing is known yet.

        Args:
            model_name: Name on the Hub; a path is left out.
            train_datasets: Names of data sets.
        """
        if (
            model_name
            and not self.model_id
            and _HUB_NAME.fullmatch(model_name)
            and not Path(model_name).exists()
        ):
            self.model_id = model_name
        if train_datasets and not self.train_datasets:
            self.train_datasets = [_named(name) for name in train_datasets]

    def add_tags(self, tags: str | Sequence[str]) -> None:
        """Adds tags that are not there yet."""
        wanted = [tags] if isinstance(tags, str) else tags
        self.tags += [tag for tag in dict.fromkeys(wanted) if tag not in self.tags]

    def set_losses(self, losses: Sequence[Any]) -> None:
        """Notes the losses of a training run, and thereby that the model was trained.

        Args:
            losses: Loss modules, those around others with these; one with a ``citation`` is cited.
        """
        known = [part for loss in losses for part in _nested(loss)]
        self.losses = list(dict.fromkeys(type(loss).__name__ for loss in known))
        self.citations = {
            type(loss).__name__: loss.citation for loss in known if getattr(loss, "citation", None)
        }
        self.add_tags([_TRAINED, *(f"loss:{name}" for name in self.losses)])

    def set_train_dataset_metadata(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Notes the training data.

        Args:
            datasets: One dict a data set: ``name``, ``id`` and ``revision`` (on the Hub), ``size`` (rows), ``columns``
                (names), ``loss`` (a name), ``loss_settings`` (by name), ``statistics`` (a dict a column, from ``counted``
                rows), ``samples`` (a few rows, each a list of values); all but the name may be missing.
        """
        self.train_datasets = _merged(self.train_datasets, datasets)
        self._tag_size()

    def set_train_dataset_sizes(self, sizes: Sequence[int]) -> None:
        """Notes the rows of each training data set whose size was not known."""
        for entry, size in zip(self.train_datasets, sizes, strict=False):
            entry.setdefault("size", size)
        self._tag_size()

    def _tag_size(self) -> None:
        rows = sum(entry.get("size") or 0 for entry in self.train_datasets)
        self.tags = [tag for tag in self.tags if not tag.startswith(_SIZE)]
        self.add_tags([f"{_SIZE}{rows}"] if rows else [])

    def set_eval_dataset_metadata(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Notes the evaluation data; see :meth:`set_train_dataset_metadata`."""
        self.eval_datasets = _merged(self.eval_datasets, datasets)

    def set_hyperparameters(self, changed: Mapping[str, Any], every: Mapping[str, Any] | None = None) -> None:
        """Notes the settings of a training run, without those that could hold a secret or a path.

        Args:
            changed: Settings by name that differ from their defaults.
            every: All settings by name.
        """
        self.hyperparameters = _shown(changed)
        self.all_hyperparameters = _shown(every or {})

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: Mapping[str, float], epoch: float = -1, steps: int = -1
    ) -> None:
        """Notes what an evaluator found; a later finding of the same evaluator replaces an earlier one.

        Args:
            evaluator: It says its ``name``, ``description`` and ``primary_metric``.
            metrics: Figures by name.
            epoch: When, in passes over the data.
            steps: When, in steps.
        """
        kind, name = type(evaluator).__name__, getattr(evaluator, "name", "") or ""
        description = getattr(evaluator, "description", None) or kind.removesuffix("Evaluator")
        primary = getattr(evaluator, "primary_metric", None)
        figures = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
        new = Scores(
            kind, description, name, figures, epoch, steps, primary if isinstance(primary, str) else None
        )
        kept = [old for old in self.scores if (old.name, old.dataset) != (kind, name)]
        self.scores = [*kept, new]

    def set_widget_examples(self, examples: Sequence[Mapping[str, Any]]) -> None:
        """Notes examples for the Hub's widget: dicts with ``source_sentence`` and ``sentences``."""
        self.widget = [dict(example) for example in examples]


def _named(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    known = dict(entry)
    if not known.get("name") and not known.get("id"):
        raise ValueError(f"A data set of a model card needs a name or an id; got {known}.")
    return {
        "name": str(known.get("name") or known["id"]),
        **{key: known[key] for key in known if key != "name"},
    }


def _merged(known: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the user said of each data set goes before what was found, matched by place; what was found earlier goes."""
    said = [dict(entry.get(_SAID, entry)) for entry in known]
    said += [{}] * (len(found) - len(said))
    pairs = zip(found, said, strict=False)
    return [_named({**entry, **words, _SAID: words}) for entry, words in pairs] + [
        words for words in said[len(found) :] if words
    ]


def _nested(loss: Any) -> list[Any]:
    """A loss and those that it is around."""
    inner = getattr(loss, "loss", None)
    return [loss, *_nested(inner)] if hasattr(inner, "forward") else [loss]


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the card may show them; one that is a path itself says nothing."""
    return {name: value for name, value in publishable(settings).items() if value != PATH}
