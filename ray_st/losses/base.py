"""What all losses share: embedding the columns, gathering the pool, idle ranks, and checks of what comes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ray_st.losses.embed import TOKEN_BUDGET, embed_columns


@dataclass(frozen=True)
class Columns:
    """The embeddings of one step as a loss sees them.

    Attributes:
        mine: For each text column the embeddings (n, d) of this rank's rows.
        pool: For each text column the embeddings (N, d) of the cluster's rows; ``mine`` itself without gathering.
        offset: Row of ``mine[c][0]`` in ``pool[c]``.
        labels: Labels of this rank's rows, (n,) or (n, k), or None.
        pool_labels: Labels of the pool's rows, (N,) or (N, k); ``labels`` itself without gathering.
    """

    mine: tuple[Tensor, ...]
    pool: tuple[Tensor, ...]
    offset: int = 0
    labels: Tensor | None = None
    pool_labels: Tensor | None = None

    @classmethod
    def local(cls, embeddings: Sequence[Tensor], labels: Tensor | None = None) -> Columns:
        """The columns of a rank that is on its own.

        Args:
            embeddings: For each text column (n, d).
            labels: (n,) or (n, k), or None.
        """
        return cls(tuple(embeddings), tuple(embeddings), 0, labels, labels)


class Gather(Protocol):
    """Collects rows from all ranks; what training hands to a loss."""

    @property
    def idle(self) -> bool:
        """Whether this rank holds only a filler row in this step, which the pool leaves out."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        """Gives the rows of all ranks (N, ...), with gradient where they have one, and where mine (n, ...) begin."""


class Loss(nn.Module, ABC):
    """A loss over embedded text columns: ``loss(sentence_features, labels)`` for users, :meth:`compute` for its author.

    The law that each loss keeps: over W ranks whose slices share a pool, the mean of the ranks' losses, weighted by
    their rows, equals the loss of the whole batch on one rank, in value and gradient.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        gather_across_devices: Whether the loss sees the rows of all ranks, or only its own.

    Attributes:
        text_columns: Least and most number of text columns; None for no upper limit.
        labels: Kind of label: ``"none"`` or ``"float score"``.
        token_budget: Most padded tokens a call of the model; see :func:`ray_st.losses.embed.embed_columns`.
    """

    text_columns: ClassVar[tuple[int, int | None]] = (1, None)
    labels: ClassVar[str] = "none"

    def __init__(self, model: nn.Module, gather_across_devices: bool = False) -> None:
        super().__init__()
        self.model = model
        self.gather_across_devices = gather_across_devices
        self.token_budget = TOKEN_BUDGET
        self._gather: Gather | None = None

    def bind(self, gather: Gather | None) -> None:
        """Gives the loss its door to the other ranks, or takes it away.

        Args:
            gather: Used if ``gather_across_devices`` is set: once a step for the embeddings of all columns, stacked to
                (n, columns, d), then once for the labels if there are any. None for a rank on its own.
        """
        self._gather = gather

    def forward(self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Embeds the columns and computes the loss.

        Args:
            sentence_features: For each text column its features; see :meth:`embed`.
            labels: (n,) or (n, k), as the loss needs them.

        Returns:
            The loss, a scalar; on an idle rank zero, still joined to every embedding that the step's gradient needs.

        Raises:
            ValueError: If the number of columns, their rows, or the labels are not what the loss needs.
        """
        columns = self.columns(sentence_features, labels)
        if self._gather is not None and self._gather.idle:
            return self._zero(columns)
        return self.compute(columns)

    def embed(self, sentence_features: Iterable[Mapping[str, Any]]) -> list[Tensor]:
        """Embeds the columns together, sorted by length and cut into chunks.

        Args:
            sentence_features: For each text column ``input_ids`` (n, t), ``attention_mask`` (n, t) and so on.

        Returns:
            For each column its embeddings (n, d).
        """
        return embed_columns(self.model, sentence_features, self.token_budget)

    def columns(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> Columns:
        """Embeds this rank's rows and gathers the pool; arguments and errors as in :meth:`forward`."""
        features = list(sentence_features)
        self._check_columns(len(features))
        mine = self.embed(features)
        labels = self.check_labels(labels, self._rows(mine))
        if self._gather is None or not self.gather_across_devices:
            return Columns.local(mine, labels)
        pool, offset = self._gather(torch.stack(mine, dim=1))
        pool_labels = None if labels is None else self._gather(labels)[0]
        return Columns(tuple(mine), pool.unbind(1), offset, labels, pool_labels)

    @abstractmethod
    def compute(self, columns: Columns) -> Tensor:
        """Computes the loss from embeddings; all that a loss has to bring.

        Args:
            columns: Embeddings and labels, already checked.

        Returns:
            The loss of ``columns.mine`` against ``columns.pool``, a scalar.
        """

    def check_labels(self, labels: Tensor | None, rows: int) -> Tensor | None:
        """Brings labels into the form that :meth:`compute` gets.

        Args:
            labels: As given to :meth:`forward`.
            rows: Number of rows n of the batch.

        Returns:
            None for losses without labels; for scores one number a row (n,).

        Raises:
            ValueError: If labels are missing, not numbers, or not one a row.
        """
        if self.labels == "none":
            return None
        need = f"{type(self).__name__} needs labels ({self.labels}): a tensor with one number a row, {rows} in all"
        if not isinstance(labels, Tensor):
            raise ValueError(
                f"{need}; found {type(labels).__name__}. Give the dataset a column named label or score."
            )
        if labels.is_complex() or labels.numel() != rows:
            raise ValueError(f"{need}; found {labels.dtype} of shape {tuple(labels.shape)}.")
        return labels.reshape(-1) if labels.is_floating_point() else labels.reshape(-1).float()

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from, for the model card; empty if there is none."""
        return ""

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

    def _zero(self, columns: Columns) -> Tensor:
        # Empty slices: exactly zero even where a filler row embeds to infinity, and every rank's backward still
        # takes part in the collectives.
        model = {id(parameter) for parameter in self.model.parameters()}
        own = [parameter for parameter in self.parameters() if id(parameter) not in model]
        parts = [*columns.mine, *columns.pool, *own]
        return torch.stack([part.reshape(-1)[:0].sum() for part in parts]).sum()


def function_name(function: Callable[..., Any]) -> str:
    """What to call a function or module that is an option of a loss.

    Args:
        function: A function, a partial, or a callable object.
    """
    return getattr(function, "__name__", type(function).__name__)


def at_least_float32(scores: Tensor) -> Tensor:
    """Raises half precision to float32 for sums of exponentials.

    Args:
        scores: Any shape, any floating type.
    """
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
