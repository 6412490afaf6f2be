"""One rank's rows of a step: from a window to padded features, prefetched in a background thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ray_st.data.batch_source import BatchSource
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices, Piece
from ray_st.data.routes import Route
from ray_st.training.data.pair_features import PAIR, TEXTS, PairFeatures
from ray_st.util.host_facts import HOST_KEYS, with_host_facts
from ray_st.world import World

LABEL = "label"
DATASET_NAME = "dataset_name"
SHARES = "shares"
"""Key of each rank's row count in a step; read only by the loop."""
BATCH = "batch"
"""Key of the row numbers of the step's global batch; read only by the loop."""

_FEATURES = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "prompt_length",
    "text_id",
    "sentence_embedding",
    "pixel_values",
    TEXTS,
    *HOST_KEYS,
)
_AHEAD = 2
_FETCH_AHEAD = 32

Inputs = dict[str, Any]
Pad = Callable[[Sequence[np.ndarray]], Mapping[str, Tensor]]
Tokenize = Callable[..., Mapping[str, Tensor]]
RoutesOf = Callable[[ColumnSpec, str], Mapping[str, Route]]
Collator = Callable[[list[dict[str, Any]]], Inputs]


def flatten(features: Mapping[str, Mapping[str, Any]], label: Tensor | None = None) -> Inputs:
    """The documented form of a batch: ``COLUMN_input_ids``, ``COLUMN_attention_mask``, …, and ``label``."""
    inputs = {f"{column}_{key}": value for column, parts in features.items() for key, value in parts.items()}
    if label is not None:
        inputs[LABEL] = label
    return inputs


def collect(inputs: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Tensor | None]:
    """Undoes :func:`flatten`: one feature dictionary for each text column, in order, and the labels.

    A feature with an unknown name is assigned to the column whose name is a prefix of the input's name.
    """
    columns: dict[str, dict[str, Any]] = {}
    others: list[str] = []
    for name, value in inputs.items():
        key = next((key for key in _FEATURES if name.endswith(f"_{key}")), None)
        if key is None:
            others.append(name)
        else:
            columns.setdefault(name.removesuffix(f"_{key}"), {})[key] = value
    for name in others:
        owners = [column for column in columns if name.startswith(f"{column}_")]
        if owners:
            column = max(owners, key=len)
            columns[column][name.removeprefix(f"{column}_")] = inputs[name]
    return list(columns.values()), inputs.get(LABEL)


@dataclass(eq=False)
class Collate:
    """Converts rows of a window to the inputs of a step.

    Columns of token ids carry what the host knows of them; see :mod:`ray_st.util.host_facts`.

    Args:
        tokenize: Converts texts, of the task given by keyword, to padded features; used for rows of texts.
        pad: Converts token ids to padded features; used for rows of token ids.
        prompt_lengths: For each dataset, the number of prompt tokens of each column, passed on to the
            pooling.
        collator: A user's collator, which receives the rows as dictionaries of texts instead.
        text_ids: Whether features identify equal texts, for losses that ignore duplicates.
        routes_of: Returns the routes of a dataset's columns, for models with a Router.
        pairs: Makes pairs of texts of rows, for a model that takes pairs.
    """

    tokenize: Tokenize
    pad: Pad | None
    prompt_lengths: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    collator: Collator | None = None
    text_ids: bool = False
    routes_of: RoutesOf | None = None
    pairs: PairFeatures | None = None
    _routes: dict[str, Mapping[str, Route]] = field(default_factory=dict, init=False)

    def __call__(self, window: EncodedDataset, rows: Indices, dataset: str = "") -> Inputs:
        """Inputs of some rows of a dataset."""
        if self.routes_of is not None and dataset not in self._routes:
            self._routes[dataset] = self.routes_of(window.columns, dataset)
        if self.collator is None:
            inputs = self._padded(window, rows, dataset)
        else:
            inputs = self.collator(_dictionaries(window, rows))
        for column, route in self._routes.get(dataset, {}).items():
            for name, value in route.features.items():
                inputs.setdefault(f"{column}_{name}", value)  # a user's collator takes precedence
        if dataset:
            inputs[DATASET_NAME] = dataset
        return inputs

    def _padded(self, window: EncodedDataset, rows: Indices, dataset: str) -> Inputs:
        if self.pairs is None:
            features = self._columns(window, rows, dataset)
        else:
            features = {PAIR: self.pairs(window, rows, dataset)}
        labels = window.label_array(rows)
        return flatten(features, None if labels is None else torch.from_numpy(labels))

    def _columns(self, window: EncodedDataset, rows: Indices, dataset: str) -> dict[str, dict[str, Any]]:
        lengths, routes = self.prompt_lengths.get(dataset, {}), self._routes.get(dataset, {})
        features: dict[str, dict[str, Any]] = {}
        for name in window.columns.texts:
            features[name] = self._features(window, rows, name, routes.get(name))
            if name in lengths:
                features[name]["prompt_length"] = lengths[name]
            if self.text_ids:
                features[name]["text_id"] = torch.from_numpy(window.hashes(name, rows))
        return features

    def _features(
        self, window: EncodedDataset, rows: Indices, name: str, route: Route | None
    ) -> dict[str, Any]:
        encoder = None if route is None else route.encoder
        pad = self.pad if encoder is None else encoder.pad
        if pad is not None and window.has_tokens(name, rows):
            return with_host_facts(pad(window.ids(name, rows)))
        of_task = {} if route is None or route.task is None else {"task": route.task}
        return dict(self.tokenize(window.texts(name, rows), **of_task))


def _dictionaries(window: EncodedDataset, rows: Indices) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {name: window.texts(name, rows) for name in window.columns.texts}
    labels = window.labels(rows)
    if labels is not None and window.columns.label is not None:
        columns[window.columns.label] = labels
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class StepDataset(Dataset[Inputs]):
    """A rank's batches, addressed by (epoch, step); upcoming ones are prepared in a background thread.

    Because a step is an address, skipping steps on resume skips integers: nothing is read or tokenized again.

    Args:
        source: The source of plans and rows.
        world: This rank's position in the cluster; determines its share of a batch.
        collate: Converts rows to inputs.
    """

    def __init__(self, source: BatchSource, world: World, collate: Collate) -> None:
        self._source, self._world, self._collate = source, world, collate
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray_st-collate")
        self._pending: dict[tuple[int, int], Future[Inputs]] = {}
        self._pieces: dict[int, list[Piece]] = {}
        self._starts = np.cumsum([0, *(len(window) for window in source.windows)])[:-1]

    def __len__(self) -> int:
        return self._source.rows

    def __getitem__(self, address: tuple[int, int]) -> Inputs:
        epoch, step = address
        for ahead in range(step, min(step + 1 + _AHEAD, self._source.steps)):
            if (epoch, ahead) not in self._pending:
                self._pending[epoch, ahead] = self._thread.submit(self._make, epoch, ahead)
        wanted = self._pending.pop(address)
        for stale in [key for key in self._pending if key[0] != epoch or key[1] < step]:
            self._pending.pop(stale).cancel()
        return wanted.result()

    def _make(self, epoch: int, step: int) -> Inputs:
        self._pieces = {epoch: [piece for piece in self._pieces.get(epoch, ()) if piece.end > step]}
        piece = self._piece(epoch, step)
        if (later := step + _FETCH_AHEAD) < self._source.steps:
            self._source.ahead(*self._locate(self._piece(epoch, later).cut(later, self._world)))
        batch, rows = piece.batch(step), piece.cut(step, self._world)
        # A rank without rows still takes part in every collective: it computes a filler row of zero weight.
        dataset, local = self._locate(rows if len(rows) else batch[:1])
        inputs = self._collate(self._source.windows[dataset], local, self._source.names[dataset])
        inputs[SHARES] = self._world.shares(len(batch))
        inputs[BATCH] = batch
        return inputs

    def _piece(self, epoch: int, step: int) -> Piece:
        kept = self._pieces[epoch]
        found = next((piece for piece in kept if step in piece), None)
        if found is None:
            found = self._source.piece(epoch, step)
            kept.append(found)
        return found

    def _locate(self, rows: Indices) -> tuple[int, Indices]:
        """The dataset of some rows, and their numbers in it."""
        if not len(rows):
            return 0, rows
        dataset = int(np.searchsorted(self._starts, rows[0], side="right")) - 1
        return dataset, rows - self._starts[dataset]


class EpochSteps:
    """Batch sampler of addresses, with the attributes that accelerate's ``skip_first_batches`` reads.

    Args:
        steps: Number of steps of an epoch.
    """

    batch_size = 1
    drop_last = False

    def __init__(self, steps: int) -> None:
        self.steps, self.epoch = steps, 0

    @property
    def batch_sampler(self) -> EpochSteps:
        """Returns itself: transformers looks for the sampler inside a wrapper when it sets the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch to iterate over."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            yield [(self.epoch, step)]

    def __len__(self) -> int:
        return self.steps


def step_loader(
    source: BatchSource, world: World, collate: Collate, pin_memory: bool = False
) -> DataLoader[Inputs]:
    """A loader over a rank's share of every global batch; its length is the same on every rank."""
    return DataLoader(
        StepDataset(source, world, collate),
        batch_sampler=EpochSteps(source.steps),
        collate_fn=_only,
        pin_memory=pin_memory,
    )


def _only(batches: list[Inputs]) -> Inputs:
    return batches[0]
