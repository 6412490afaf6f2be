"""Losses that make a student like a teacher: its embeddings, its margins, its distribution of scores."""

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
from ray_st.losses.helpers import at_least_float32, check_choice, function_name, widen
from ray_st.losses.loss import Loss
from ray_st.util.similarity import pairwise_dot_score

Similarity = Callable[[Tensor, Tensor], Tensor]


class EmbedDistillLoss(Loss):
    """Distance of each embedding to the teacher's, the mean over rows and columns.

    Inputs: any number of text columns, with teacher embeddings as labels: (n, t) for all columns alike or
    (n, columns, t).

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        distance_metric: ``"cosine"`` for one minus the cosine, ``"l2"`` for the length of the difference, ``"mse"`` for
            the mean square of its entries.
        projection_dim: If set, a linear layer of this loss maps the student's embeddings to this dimension, the
            teacher's t; trained along, saved with checkpoints, not part of the model.

    Raises:
        ValueError: If the metric is not among these, or the labels do not fit the columns.

    References:
        Kim et al. 2023, arXiv:2301.12005.
    """

    labels: str = "teacher embeddings"

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
        assert columns.labels is not None  # check_labels saw to it
        teachers = self._teachers(columns.labels.detach(), len(columns.mine))
        pairs = zip(columns.mine, teachers, strict=True)
        return torch.stack([self._distance(student, teacher) for student, teacher in pairs]).mean()

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """A teacher's embedding, as long as the projection if there is one, or an embedding for each column."""
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
                f"{type(self).__name__}: the student's embeddings have {student.shape[-1]} dimensions, the teacher's "
                f"{teacher.shape[-1]}. Set projection_dim={teacher.shape[-1]}."
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
        """Reads the projection's weights from a safetensors file; makes the projection if there is none.

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
        return int(self.model.get_embedding_dimension())  # type: ignore[operator]

    def _linear(self, of: int, to: int) -> nn.Linear:
        first = next(self.model.parameters())
        return nn.Linear(of, to, device=first.device)

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {"distance_metric": self.distance_metric, "projection_dim": self.projection_dim}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@article{kim2023embeddistill,
    title = {EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval},
    author = {Kim, Seungyeon and Rawat, Ankit Singh and Zaheer, Manzil and Jayasumana, Sadeep and Sadhanala,
              Veeranjaneyulu and Jitkrittum, Wittawat and Menon, Aditya Krishna and Fergus, Rob and Kumar, Sanjiv},
    year = {2023},
    eprint = {2301.12005},
    archivePrefix = {arXiv},
}
"""


class MSELoss(EmbedDistillLoss):
    """Mean squared error between embeddings and a teacher's; for distillation and for new languages.

    Inputs: any number of text columns, with teacher embeddings as labels: (n, t) for all columns alike or
    (n, columns, t).

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        projection_dim: As for :class:`EmbedDistillLoss`.

    References:
        Reimers and Gurevych 2020, arXiv:2004.09813.
    """

    def __init__(self, model: nn.Module, projection_dim: int | None = None) -> None:
        super().__init__(model, "mse", projection_dim)

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {"projection_dim": self.projection_dim}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@inproceedings{reimers-2020-multilingual-sentence-bert,
    title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
    author = {Reimers, Nils and Gurevych, Iryna},
    booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
    year = {2020},
    url = {https://arxiv.org/abs/2004.09813},
}
"""


class MarginMSELoss(Loss):
    """Mean squared error between the student's and a teacher's margins ``sim(q, positive) - sim(q, negative)``.

    Inputs: (query, positive, negative_1, ..., negative_k) with labels (n, k), the teacher's margins, or (n, k + 1), its
    scores of the positive and of each negative; for one negative also (n,), its margins.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        similarity_fct: Maps (n, d) and (n, d) to the similarities of the pairs (n,).

    References:
        Hofstätter et al. 2021, arXiv:2010.02666.
    """

    text_columns: tuple[int, int | None] = (3, None)
    labels: str = "teacher scores"

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
        """Margins, or scores of the positive and of each negative; for one negative also a margin that is in no list."""
        return (0, 1, 2) if columns == 3 else (columns - 2, columns - 1)

    def _wanted(self, labels: Tensor | None, margins: Tensor) -> Tensor:
        assert labels is not None  # check_labels saw to it
        rows, negatives = margins.shape
        labels = labels.detach()
        if labels.shape == (rows, negatives + 1):
            return labels[:, :1] - labels[:, 1:]
        if labels.ndim == 1 and negatives == 1:
            return labels[:, None]
        if labels.shape != margins.shape:
            raise ValueError(
                f"MarginMSELoss needs for {negatives} negative(s) labels of shape {(rows, negatives)}, the margins, or "
                f"{(rows, negatives + 1)}, the scores of the positive and of each negative; found "
                f"{tuple(labels.shape)}."
            )
        return labels

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {"similarity_fct": function_name(self.similarity_fct)}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@misc{hofstätter2021improving,
    title = {Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
    author = {Hofstätter, Sebastian and Althammer, Sophia and Schröder, Michael and Sertkan, Mete and Hanbury, Allan},
    year = {2021},
    eprint = {2010.02666},
    archivePrefix = {arXiv},
}
"""


class DistillKLDivLoss(Loss):
    r"""Kullback-Leibler divergence of the student's distribution over the candidates of a query from the teacher's.

    With :math:`T_s, T_t` the temperatures: :math:`T_s^2 \, KL(softmax(teacher / T_t) \,\|\, softmax(student / T_s))`,
    the mean over queries.

    Inputs: (query, positive, negative_1, ..., negative_k) with the teacher's scores of each candidate (n, k + 1).

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
        for name in ("temperature", "student_temperature", "teacher_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be more than 0 and finite; got {getattr(self, name)}.")

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """A score for each candidate."""
        return (columns - 1,)

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's queries."""
        query, *candidates = columns.mine
        scores = torch.stack([self.similarity_fct(query, other) for other in candidates], dim=1)
        labels = columns.labels
        assert labels is not None  # check_labels saw to it
        if labels.shape != scores.shape:
            raise ValueError(
                f"DistillKLDivLoss needs a teacher's score for each candidate, shape {tuple(scores.shape)}; found "
                f"{tuple(labels.shape)}."
            )
        student = F.log_softmax(at_least_float32(scores) / self.student_temperature, dim=1)
        teacher = F.softmax(labels.detach().to(student.dtype) / self.teacher_temperature, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean") * self.student_temperature**2

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        config = {"similarity_fct": function_name(self.similarity_fct), "temperature": self.temperature}
        for name in ("student_temperature", "teacher_temperature"):
            if getattr(self, name) != self.temperature:
                config[name] = getattr(self, name)
        return config

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@misc{lin2020distilling,
    title = {Distilling Dense Representations for Ranking using Tightly-Coupled Teachers},
    author = {Lin, Sheng-Chieh and Yang, Jheng-Hong and Lin, Jimmy},
    year = {2020},
    eprint = {2010.11386},
    archivePrefix = {arXiv},
}
"""
