"""Distillation losses: a student learns a teacher's embeddings, margins or distribution of scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32, check_choice, widen
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import embedding_dimension
from ray_st.util.similarity import pairwise_dot_score

Similarity = Callable[[Tensor, Tensor], Tensor]


class EmbedDistillLoss(Loss):
    """Mean distance of embeddings to the teacher's, over rows and columns.

    Inputs: any number of text columns, with teacher embeddings as labels: (n, t) for all columns alike or
    (n, columns, t).

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: ``"cosine"`` for one minus the cosine, ``"l2"`` for the length of the difference,
            ``"mse"`` for the mean square of its entries.
        projection_dim: If set, a linear layer of this loss maps the student's embeddings to this dimension,
            the teacher's t; trained and saved in checkpoints, but not part of the model.

    Raises:
        ValueError: If the metric is unknown, or the labels do not fit the columns.

    References:
        Kim et al. 2023, arXiv:2301.12005.
    """

    labels: str = "teacher embeddings"
    shown: tuple[str, ...] = ("distance_metric", "projection_dim")
    cites: tuple[str, ...] = ("kim2023embeddistill",)

    def __init__(
        self, model: nn.Module, distance_metric: str = "cosine", projection_dim: int | None = None
    ) -> None:
        super().__init__(model)
        check_choice("distance_metric", distance_metric, ("mse", "l2", "cosine"))
        self.distance_metric = distance_metric
        self.projection_dim = projection_dim
        self.projection = (
            None if projection_dim is None else self._linear(self._student_dim(), projection_dim)
        )

    def compute(self, columns: Columns) -> Tensor:
        """Mean over this rank's rows and all columns."""
        assert columns.labels is not None  # ensured by check_labels
        teachers = self._teachers(columns.labels.detach(), len(columns.mine))
        pairs = zip(columns.mine, teachers, strict=True)
        return torch.stack([self._distance(student, teacher) for student, teacher in pairs]).mean()

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """The teacher's dimension, which is the projection's if there is one, or one embedding per column."""
        return (
            super().label_lengths(columns) if self.projection_dim is None else (self.projection_dim, columns)
        )

    def _teachers(self, labels: Tensor, columns: int) -> list[Tensor]:
        if labels.ndim == 2:
            return [labels] * columns
        if labels.ndim == 3 and labels.shape[1] == columns:
            return list(labels.unbind(1))
        raise ValueError(
            f"{type(self).__name__} needs teacher embeddings of shape (rows, t) or (rows, {columns}, t) for "
            f"{columns} text column(s); found {tuple(labels.shape)}."
        )

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.projection is not None:
            rows = widen(student, self.projection.in_features)
            student = self.projection(rows.to(self.projection.weight.dtype))
        teacher = teacher.to(student.device, student.dtype)
        if student.shape != teacher.shape:
            raise ValueError(
                f"{type(self).__name__}: the student's embeddings have {student.shape[-1]} dimensions, the "
                f"teacher's {teacher.shape[-1]}. Set projection_dim={teacher.shape[-1]}."
            )
        if self.distance_metric == "mse":
            return F.mse_loss(student, teacher)
        if self.distance_metric == "l2":
            return torch.linalg.vector_norm(student - teacher, dim=-1).mean()
        return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()

    def save_projection(self, path: str | PathLike[str]) -> None:
        """Writes the projection's weights to a safetensors file.

        Raises:
            ValueError: If the loss has no projection.
        """
        if self.projection is None:
            raise ValueError("There is no projection to save; give projection_dim to the loss.")
        save_file({name: weight.contiguous() for name, weight in self.projection.state_dict().items()}, path)

    def load_projection(self, path: str | PathLike[str]) -> None:
        """Reads the projection's weights from a safetensors file; creates the projection if there is none.

        Raises:
            ValueError: If the file's weights do not fit the model or the projection.
        """
        weights = load_file(path)
        to, of = weights["weight"].shape
        projection = self.projection if self.projection is not None else self._linear(self._student_dim(), to)
        if (projection.in_features, projection.out_features) != (of, to):
            raise ValueError(
                f"The saved projection maps {of} to {to} dimensions; needed is {projection.in_features} to "
                f"{projection.out_features}."
            )
        projection.load_state_dict(weights)
        self.projection, self.projection_dim = projection, to

    def _student_dim(self) -> int:
        dimension = embedding_dimension(self.model)
        if dimension is None:
            raise ValueError(
                f"{type(self).__name__} needs a model that says its dimension (get_embedding_dimension()) "
                f"to make a projection; {type(self.model).__name__} does not."
            )
        return dimension

    def _linear(self, of: int, to: int) -> nn.Linear:
        first = next(self.model.parameters())
        return nn.Linear(of, to, device=first.device)


class MSELoss(EmbedDistillLoss):
    """Mean squared error between embeddings and a teacher's; for distillation and new languages.

    Inputs: any number of text columns, with teacher embeddings as labels: (n, t) for all columns alike or
    (n, columns, t).

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        projection_dim: As for :class:`EmbedDistillLoss`.

    References:
        Reimers and Gurevych 2020, arXiv:2004.09813.
    """

    shown: tuple[str, ...] = ("projection_dim",)
    cites: tuple[str, ...] = ("reimers-2020-multilingual-sentence-bert",)

    def __init__(self, model: nn.Module, projection_dim: int | None = None) -> None:
        super().__init__(model, "mse", projection_dim)


class MarginMSELoss(Loss):
    """Mean squared error of the margins ``sim(q, positive) - sim(q, negative)`` from a teacher's.

    Inputs: (query, positive, negative_1, ..., negative_k) with labels (n, k), the teacher's margins, or (n, k
    + 1), its scores of the positive and of each negative; for one negative also (n,), its margins.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        similarity_fct: Maps (n, d) and (n, d) to the similarities of the pairs (n,).

    References:
        Hofstätter et al. 2021, arXiv:2010.02666.
    """

    text_columns: tuple[int, int | None] = (3, None)
    labels: str = "teacher scores"
    shown: tuple[str, ...] = ("similarity_fct",)
    cites: tuple[str, ...] = ("hofstätter2021improving",)

    def __init__(self, model: nn.Module, similarity_fct: Similarity = pairwise_dot_score) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's rows."""
        query, positive, *negatives = columns.mine
        score = self.similarity_fct(query, positive)
        margins = torch.stack([score - self.similarity_fct(query, other) for other in negatives], dim=1)
        return F.mse_loss(margins, self._wanted(columns.labels, margins).to(margins.dtype))

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """Margins, or scores of the positive and each negative; for one negative also a plain number."""
        return (0, 1, 2) if columns == 3 else (columns - 2, columns - 1)

    def _wanted(self, labels: Tensor | None, margins: Tensor) -> Tensor:
        assert labels is not None  # ensured by check_labels
        rows, negatives = margins.shape
        labels = labels.detach()
        if labels.shape == (rows, negatives + 1):
            return labels[:, :1] - labels[:, 1:]
        if labels.ndim == 1 and negatives == 1:
            return labels[:, None]
        if labels.shape != margins.shape:
            raise ValueError(
                f"MarginMSELoss needs for {negatives} negative(s) labels of shape {(rows, negatives)}, the "
                f"margins, or {(rows, negatives + 1)}, the scores of the positive and of each negative; "
                f"found {tuple(labels.shape)}."
            )
        return labels


class DistillKLDivLoss(Loss):
    r"""Kullback-Leibler divergence of the student's scores of a query's candidates from the teacher's.

    With temperatures :math:`T_s, T_t`, the mean over queries of
    :math:`T_s^2 \, KL(softmax(teacher / T_t) \,\|\, softmax(student / T_s))`.

    Inputs: (query, positive, negative_1, ..., negative_k) with the teacher's scores of each candidate (n, k +
    1).

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        similarity_fct: Maps (n, d) and (n, d) to the similarities of the pairs (n,).
        temperature: Of both distributions; more than 0.
        student_temperature: Of the student's alone, instead.
        teacher_temperature: Of the teacher's alone, instead.

    Raises:
        ValueError: If a temperature is not more than 0 and finite, or the labels do not fit the columns.

    References:
        Lin, Yang and Lin 2020, arXiv:2010.11386.
    """

    text_columns: tuple[int, int | None] = (3, None)
    labels: str = "teacher scores"
    shown: tuple[str, ...] = ("similarity_fct", "temperature")
    cites: tuple[str, ...] = ("lin2020distilling",)

    def __init__(
        self,
        model: nn.Module,
        similarity_fct: Similarity = pairwise_dot_score,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct
        self.temperature = temperature
        self.student_temperature = temperature if student_temperature is None else student_temperature
        self.teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
        given = {"temperature": temperature, **self._own_temperatures()}
        for name, value in given.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be more than 0 and finite; got {value}.")

    def _own_temperatures(self) -> dict[str, float]:
        return {
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
        }

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """A score for each candidate."""
        return (columns - 1,)

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's queries."""
        query, *candidates = columns.mine
        scores = torch.stack([self.similarity_fct(query, other) for other in candidates], dim=1)
        labels = columns.labels
        assert labels is not None  # ensured by check_labels
        if labels.shape != scores.shape:
            raise ValueError(
                f"DistillKLDivLoss needs a teacher's score for each candidate, shape {tuple(scores.shape)}; "
                f"found {tuple(labels.shape)}."
            )
        student = F.log_softmax(at_least_float32(scores) / self.student_temperature, dim=1)
        teacher = F.softmax(labels.detach().to(student.dtype) / self.teacher_temperature, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean") * self.student_temperature**2

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        own = self._own_temperatures().items()
        return {
            **super().get_config_dict(),
            **{name: value for name, value in own if value != self.temperature},
        }
