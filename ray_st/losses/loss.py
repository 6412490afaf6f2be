"""Base of all losses: embeds columns, gathers the pool, handles idle ranks and checks inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.losses import labels as label_kinds
from ray_st.losses.budget import default_budget
from ray_st.losses.columns import Columns, Gather
from ray_st.losses.embed import Run, embed_columns, run_plainly
from ray_st.losses.gradient_cache import CachedRun
from ray_st.losses.lockstep import Lockstep, LockstepRun
from ray_st.losses.model_facts import function_name
from ray_st.losses.parts import Value
from ray_st.losses.tiles import TILE_SCORES
from ray_st.util.citations import cited
from ray_st.util.value_checks import check_at_least_one

TEXT_ID = "text_id"
"""Feature (n,) that is equal for equal texts; read by losses only."""


class Loss(nn.Module, ABC):
    """A loss over embedded text columns. Users call it; authors of losses define :meth:`compute`.

    Every loss must satisfy: over W ranks whose slices share a pool, the mean of the ranks' losses, weighted
    by their rows, equals the loss of the whole batch on one rank, in value and gradient.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        gather_across_devices: Whether the loss sees the rows of all ranks, or only its own.

    Attributes:
        text_columns: Least and greatest number of text columns; None for no upper limit.
        labels: Kind of labels, one of :data:`ray_st.losses.labels.KINDS`, prefixed with ``"optional "`` if
            they may be missing.
        parts: Names of the parts, for a loss that returns a dictionary.
        in_batch_negatives: Whether rows are only compared with other rows of the batch, so that a batch of
            one teaches nothing.
        different_labels: Least number of distinct labels in the data.
        sums: Whether the loss is a sum over rows instead of a mean; it then receives the cluster's number of
            rows.
        token_budget: Most tokens per call of the model; None for what its size and its device's memory allow,
            see :func:`ray_st.losses.budget.default_budget`.
        tile_scores: Most similarities at a time; see :func:`ray_st.losses.tiles.mean_in_tiles`.
        mini_batch_size: If set, the model runs on this many rows at a time and recomputes activations in the
            backward pass; see :mod:`ray_st.losses.gradient_cache`.
        mini_batch_num_tokens: The same, by padded tokens instead of rows.
        show_progress_bar: Whether cached passes show a progress bar.
        lockstep: The agreement of ranks that make their calls of the model together, because its weights are
            sharded; None if each calls as often as its rows need.
        shown: Options that the model card shows.
        cites: Keys of the papers in ``ray_st/util/citations.bib`` that the model card cites.
    """

    text_columns: tuple[int, int | None] = (1, None)
    labels: str = "none"
    parts: tuple[str, ...] = ()
    in_batch_negatives: bool = False
    different_labels: int = 1
    sums: bool = False
    mini_batch_size: int | None = None
    mini_batch_num_tokens: int | None = None
    show_progress_bar: bool = False
    lockstep: Lockstep | None = None
    shown: tuple[str, ...] = ()
    cites: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, gather_across_devices: bool = False) -> None:
        super().__init__()
        self.model = model
        self.gather_across_devices = gather_across_devices
        self.token_budget: int | None = None
        self.tile_scores = TILE_SCORES
        self._gather: Gather | None = None
        self._view: Callable[[nn.Module], nn.Module] = _itself

    def bind(self, gather: Gather | None) -> None:
        """Connects the loss to the other ranks, or disconnects it.

        Args:
            gather: Called if ``gather_across_devices`` is set: once a step for the embeddings of all columns,
                stacked to (n, columns, d), then once for the labels if there are any. None for a rank on its
                own.
        """
        self._gather = gather

    def forward(self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None) -> Value:
        """Embeds the columns and computes the loss.

        Args:
            sentence_features: For each text column its features; see :meth:`embed`.
            labels: (n,) or (n, k), as the loss needs them.

        Returns:
            The loss, a scalar or named scalars to be summed. On an idle rank it is zero, but still connected
            to every embedding that the step's gradient needs.

        Raises:
            ValueError: If the number of columns, their rows, or the labels are not what the loss needs.
        """
        columns = self.columns(list(sentence_features), labels)
        return self.unless_idle(lambda: self.compute(columns), [*columns.mine, *columns.pool])

    def unless_idle(self, compute: Callable[[], Value], embeddings: Sequence[Tensor]) -> Value:
        """The loss; on an idle rank zero.

        Args:
            compute: Computes the loss.
            embeddings: What the zero stays connected to, for the step's gradient.
        """
        if self._gather is None or not self._gather.idle:
            return compute()
        self.skip()
        zero = self._zero(embeddings)
        return dict.fromkeys(self.parts, zero) if self.parts else zero

    def embed(self, sentence_features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Embeds the columns that the loss compares.

        Args:
            sentence_features: For each text column ``input_ids`` (n, t), ``attention_mask`` (n, t) and so on.

        Returns:
            For each column its embeddings (n, d).
        """
        return self.run(self.model, sentence_features)

    def run(self, model: nn.Module, sentence_features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Embeds columns together: sorted by length, in chunks, and with the gradient cache if it is on.

        Args:
            model: The model, or another one that the loss trains.
            sentence_features: As in :meth:`embed`.
        """
        return embed_columns(
            self._view(model),
            sentence_features,
            self.mini_batch_num_tokens or self.token_budget or default_budget(model),
            rows=None if self.mini_batch_num_tokens else self.mini_batch_size,
            run=self._runner(),
        )

    def _runner(self) -> Run:
        cached = self.mini_batch_size is not None or self.mini_batch_num_tokens is not None
        if self.lockstep is not None:
            return LockstepRun(self.lockstep, cached, self.show_progress_bar)
        return CachedRun(self.show_progress_bar) if cached else run_plainly

    @contextmanager
    def seen_through(self, view: Callable[[nn.Module], nn.Module]) -> Iterator[None]:
        """While this lasts, the loss runs a view of its models; modifiers use it to get several embeddings.

        Args:
            view: Maps a model to a module of the same weights, whose ``sentence_embedding`` may be (n, ...,
                d).
        """
        before, self._view = self._view, view
        try:
            yield
        finally:
            self._view = before

    def columns(self, features: Sequence[Mapping[str, Any]], labels: Tensor | None = None) -> Columns:
        """Embeds this rank's rows and gathers the pool; arguments and errors as in :meth:`forward`."""
        self._check_columns(len(features))
        features, texts = _without_text_ids(features)
        mine = self.embed(features)
        labels = self.check_labels(labels, self._rows(mine))
        columns = replace(
            self.pooled(mine, labels),
            features=tuple(features),
            texts=self.pooled(texts).pool if texts else (),
        )
        if not self.sums or self._gather is None:
            return columns
        return replace(columns, total=len(self._gather(mine[0].detach()[:, 0])[0]))

    def pooled(self, mine: Sequence[Tensor], labels: Tensor | None = None) -> Columns:
        """This rank's rows and, if the loss gathers, those of the other ranks.

        Args:
            mine: For each column embeddings (n, d), or text ids (n,), of this rank's rows.
            labels: (n,) or (n, k), or None.
        """
        if self._gather is None or not self.gather_across_devices:
            return Columns.local(mine, labels)
        pool, offset = self._gather(torch.stack(list(mine), dim=1))
        pool_labels = None if labels is None else self._gather(labels)[0]
        return Columns(tuple(mine), pool.unbind(1), offset, labels, pool_labels)

    @abstractmethod
    def compute(self, columns: Any) -> Value:
        """Computes the loss from embeddings; the one method that a loss must define.

        Args:
            columns: Embeddings and labels, already checked, as :class:`ray_st.losses.columns.Columns`; for a
                :class:`ray_st.losses.scores.score_loss.ScoreLoss` the scores of pairs.

        Returns:
            The loss of ``columns.mine`` against ``columns.pool``, a scalar or named scalars to be summed.
        """

    def skip(self) -> None:
        """Called on an idle rank instead of :meth:`compute`, for losses that count their computations."""

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Value:
        """The loss of given embeddings, on this rank alone; for losses made of others.

        Args:
            embeddings: For each text column (n, d).
            labels: As in :meth:`forward`.
        """
        return self.compute(Columns.local(embeddings, self.check_labels(labels, self._rows(embeddings))))

    def check_labels(self, labels: Tensor | None, rows: int) -> Tensor | None:
        """Normalises labels for :meth:`compute`.

        Args:
            labels: As given to :meth:`forward`.
            rows: Number of rows n of the batch.

        Returns:
            None for losses without labels; otherwise as :func:`ray_st.losses.labels.check_labels` says.

        Raises:
            ValueError: If labels are missing, of another type or shape, NaN, or out of range.
        """
        return label_kinds.check_labels(self.labels, labels, rows, type(self).__name__)

    @property
    def label_limits(self) -> tuple[bool, float, float]:
        """Limits of a label, checked before training: whether it must be whole, the least, the greatest."""
        return label_kinds.kind_of(self.labels).limits

    @property
    def ignored_label(self) -> float | None:
        """A number outside the limits that marks a row without a label; None if there is none."""
        return None

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """Allowed lengths of labels that are lists, checked before training.

        Args:
            columns: Number of text columns.

        Returns:
            The lengths; 0 stands for a plain number, -1 for a list of any length. Empty if any label is
            allowed, or if a subclass checks labels itself.
        """
        own = type(self).check_labels is not Loss.check_labels
        return () if own else label_kinds.kind_of(self.labels).lengths

    def cache(
        self,
        mini_batch_size: int | None,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Turns the gradient cache on; the arguments are documented as attributes of the class.

        Raises:
            ValueError: If a size is not at least 1.
        """
        sizes = {"mini_batch_size": mini_batch_size, "mini_batch_num_tokens": mini_batch_num_tokens}
        check_at_least_one(**{name: size for name, size in sizes.items() if size is not None})
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card; functions by their names."""
        return {name: _plain(getattr(self, name)) for name in self.shown}

    @property
    def citation(self) -> str:
        """BibTeX of the papers that the loss comes from, for the model card; empty if there is none."""
        return cited(*self.cites)

    def _check_columns(self, found: int) -> None:
        least, most = self.text_columns
        if found < least or (most is not None and found > most):
            need = f"exactly {least}" if least == most else f"at least {least}"
            need = f"{least} to {most}" if most is not None and most > least else need
            raise ValueError(
                f"{type(self).__name__} needs {need} text columns; found {found}. "
                "Every column of the dataset that is not a label is taken as text."
            )

    def _rows(self, embeddings: Sequence[Tensor]) -> int:
        rows = {len(column) for column in embeddings}
        if len(rows) != 1:
            raise ValueError(
                f"{type(self).__name__} needs the same number of rows in each text column; "
                f"found {[len(column) for column in embeddings]}."
            )
        return rows.pop()

    def _zero(self, embeddings: Sequence[Tensor]) -> Tensor:
        # Empty slices sum to exactly zero even if a filler row embeds to infinity, and every rank's backward
        # pass still takes part in the collectives.
        model = {id(parameter) for parameter in self.model.parameters()}
        own = [parameter for parameter in self.parameters() if id(parameter) not in model]
        return torch.stack([part.reshape(-1)[:0].sum() for part in [*embeddings, *own]]).sum()


def _plain(option: object) -> object:
    if isinstance(option, Enum):
        return str(option)
    return function_name(option) if callable(option) else option


def _itself(model: nn.Module) -> nn.Module:
    return model


def _without_text_ids(
    features: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """The features for the model, and each column's text ids if they are given."""
    ids = [column[TEXT_ID] for column in features if TEXT_ID in column]
    return [{key: value for key, value in column.items() if key != TEXT_ID} for column in features], ids
