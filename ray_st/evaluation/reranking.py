"""How high relevant documents rank among the candidates of each query."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.checked_inputs import check_equal_lengths
from ray_st.evaluation.evaluated_model import DOCUMENT_ROLES, EvaluatedModel
from ray_st.evaluation.metrics.ranked import Ranked, ranked_names
from ray_st.evaluation.query_samples import checked_sample
from ray_st.util.similarity import cos_sim
from ray_st.util.tensors import to_numpy
from ray_st.util.value_checks import check_at_least_one

logger = logging.getLogger(__name__)


class RerankingEvaluator(BuiltInEvaluator):
    """Ranks the candidates of each query by their similarity to it.

    Metrics are ``map``, ``mrr@{at_k}`` and ``ndcg@{at_k}``; the last is the primary metric. Of equal scores
    the earlier document comes first for ``mrr``, those in ``positive`` before others; for ``ndcg`` they share
    their gain, and for ``map`` the precision after all of them. CSV file:
    ``RerankingEvaluator[_{name}]_results_@{at_k}.csv``.

    Queries are encoded with the model's prompt named "query", documents with its "document", "passage" or
    "corpus" prompt, if it has them. Samples without relevant or without other documents are skipped with a
    warning.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        samples: Dicts with a ``query``, its relevant documents ``positive``, and either other documents
            ``negative`` or all candidates ``documents``, of which those not in ``positive`` are the others.
            Documents are a list, or one text. Of a dict of samples, the values are taken.
        at_k: Ranks that count for ``mrr`` and ``ndcg``.
        similarity_fct: Maps a query's embedding (1, d) and its documents' (n, d) to n scores.
        use_batched_encoding: Whether to encode all texts together, each distinct one once; else each query
            with its documents separately, which is slower and holds fewer embeddings.
        mrr_at_k: Older name of ``at_k``.

    Raises:
        ValueError: If there is no sample, a sample misses a key or has a text that is None, none has both
            relevant and other documents, or ``at_k`` is below 1; when called, if a score is nan or infinite,
            or ``similarity_fct`` returns another number of scores.
    """

    shown = ("at_k", "truncate_dim")

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]],
        at_k: int = 10,
        name: str = "",
        write_csv: bool = True,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        batch_size: int = 64,
        show_progress_bar: bool | None = False,
        use_batched_encoding: bool = True,
        truncate_dim: int | None = None,
        mrr_at_k: int | None = None,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, samples=samples)
        if mrr_at_k is not None:
            logger.warning("%s: mrr_at_k is the older name of at_k; at_k=%d is used.", who, mrr_at_k)
        self.at_k = at_k if mrr_at_k is None else mrr_at_k
        check_at_least_one(at_k=self.at_k)
        self.samples = _usable(who, samples.values() if isinstance(samples, Mapping) else samples)
        self.similarity_fct = similarity_fct
        self.use_batched_encoding = use_batched_encoding
        self.primary_metric = f"ndcg@{self.at_k}"
        self._set_options(
            "RerankingEvaluator",
            name,
            write_csv,
            batch_size,
            show_progress_bar,
            truncate_dim,
            csv_end=f"results_@{self.at_k}.csv",
        )

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        metrics = self._ranked(model).metrics(self.at_k)
        return Measured(metrics, {key.upper(): value for key, value in metrics.items()})

    def _ranked(self, model: EvaluatedModel) -> Ranked:
        embeddings = self._together(model) if self.use_batched_encoding else self._one_by_one(model)
        scores = torch.cat([self._scores(query, documents) for query, documents in embeddings])
        relevant = [[True] * len(s["positive"]) + [False] * len(s["negative"]) for s in self.samples]
        counts = np.asarray([len(flags) for flags in relevant])
        values = to_numpy(scores)
        if not np.isfinite(values).all():
            sample = np.repeat(np.arange(len(counts)), counts)[~np.isfinite(values)][0]
            raise ValueError(
                f"{type(self).__name__} needs finite scores; those of query "
                f"{self.samples[sample]['query']!r:.80} are not. Look for nan in the model's weights."
            )
        return Ranked.of(values, np.concatenate(relevant), counts)

    def _together(self, model: EvaluatedModel) -> Iterator[tuple[Tensor, Tensor]]:
        texts = [sample["query"] for sample in self.samples]
        documents = [[*sample["positive"], *sample["negative"]] for sample in self.samples]
        (queries,) = self._encode_columns(model, [texts], ["query"], convert_to_tensor=True)
        others = self._encode_columns(model, documents, DOCUMENT_ROLES, convert_to_tensor=True)
        return zip(queries.split(1), others, strict=True)

    def _one_by_one(self, model: EvaluatedModel) -> Iterator[tuple[Tensor, Tensor]]:
        for sample in tqdm(self.samples, desc="Samples", disable=not self.show_progress_bar):
            documents = [*sample["positive"], *sample["negative"]]
            options = {"show_progress_bar": False, "convert_to_tensor": True}
            query = self._encode(model, [sample["query"]], ["query"], **options)
            yield query, self._encode(model, documents, DOCUMENT_ROLES, **options)

    def _scores(self, query: Tensor, documents: Tensor) -> Tensor:
        scores = self.similarity_fct(query, documents).flatten()
        if len(scores) != len(documents):
            raise ValueError(
                f"similarity_fct must return a score for each document; got {len(scores)} for "
                f"{len(documents)}."
            )
        return scores

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(ranked_names(self.at_k))


def _usable(evaluator: str, samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples as query, positive and negative; those that lack either kind are skipped."""
    read = [_sample(evaluator, row, sample) for row, sample in enumerate(samples)]
    usable = [sample for sample in read if sample["positive"] and sample["negative"]]
    if not usable:
        raise ValueError(f"None of the {len(read)} samples has both a relevant and another document.")
    if len(usable) < len(read):
        logger.warning(
            "%s: %d of %d samples are left out: %d have no relevant document, %d no other.",
            evaluator,
            len(read) - len(usable),
            len(read),
            sum(not sample["positive"] for sample in read),
            sum(not sample["negative"] for sample in read),
        )
    return usable


def _sample(evaluator: str, row: int, sample: Mapping[str, Any]) -> dict[str, Any]:
    checked = checked_sample(evaluator, row, sample)
    if "documents" in checked:
        checked["negative"] = [text for text in checked["documents"] if text not in checked["positive"]]
    return checked
