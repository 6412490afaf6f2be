"""How high a reranker ranks the relevant documents of each query, beside the ranking that it was given."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_st.evaluation.built_in import Measured
from ray_st.evaluation.checked_inputs import check_equal_lengths
from ray_st.evaluation.evaluated_model import ScoringModel
from ray_st.evaluation.metrics.ranked import Ranked, metrics_of_rankings, ranked_names
from ray_st.evaluation.query_samples import checked_sample
from ray_st.evaluation.reranker.pair_evaluator import PairEvaluator
from ray_st.util.value_checks import check_at_least_one

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """What is ranked for a query.

    Attributes:
        query: The query.
        documents: The documents.
        relevant: Whether each of them is relevant.
    """

    query: Any
    documents: list[Any]
    relevant: list[bool]


class CrossEncoderRerankingEvaluator(PairEvaluator):
    """Ranks the documents of each query by their scores.

    Metrics are ``map``, ``mrr@{at_k}`` and ``ndcg@{at_k}``; the last is the primary metric. If samples
    have a ranking ``documents``, the metrics of that ranking come beside them, as ``base_map`` and so on,
    and the model card shows the difference; relevant documents that the ranking lacks count as its last
    ones there, and a ranking without any is worth 0. CSV file:
    ``CrossEncoderRerankingEvaluator[_{name}]_results_@{at_k}.csv``.

    Of equal scores the later document comes first for ``mrr``, so that relevant documents, which come
    first in the samples, gain nothing from scores that do not tell documents apart; for ``ndcg`` they
    share their gain, and for ``map`` the precision after all of them. Queries without a relevant document
    count as 0, with a warning.

    Further options are those of :class:`ray_st.evaluation.reranker.pair_evaluator.PairEvaluator`.

    Args:
        samples: Dicts with a ``query``, its relevant documents ``positive``, and either other documents
            ``negative``, or ``documents``, what a first stage found, best first. Documents are a list, or
            one text. Of a dict of samples, the values are taken.
        at_k: Ranks that count for ``mrr`` and ``ndcg``.
        always_rerank_positives: Whether relevant documents that ``documents`` lacks are ranked too.
            Otherwise, only ``documents`` are ranked, which measures both stages together.
        mrr_at_k: Older name of ``at_k``.

    Raises:
        ValueError: If there is no sample, a sample misses a key or has a text that is None, none has a
            relevant document, or ``at_k`` is below 1; when called, if the model has several labels, or a
            score is nan or infinite.
    """

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]],
        at_k: int = 10,
        always_rerank_positives: bool = True,
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        mrr_at_k: int | None = None,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, samples=samples)
        if mrr_at_k is not None:
            logger.warning("%s: mrr_at_k is the older name of at_k; at_k=%d is used.", who, mrr_at_k)
        self.at_k = at_k if mrr_at_k is None else mrr_at_k
        check_at_least_one(at_k=self.at_k)
        self.samples = _checked(who, samples.values() if isinstance(samples, Mapping) else samples)
        self.always_rerank_positives = always_rerank_positives
        if not always_rerank_positives and not self._ranked_samples:
            logger.warning(
                "%s: always_rerank_positives=False has no effect on samples without 'documents'.", who
            )
        self.prompt_name = prompt_name
        self.primary_metric = f"ndcg@{self.at_k}"
        self._set_options(
            "CrossEncoderRerankingEvaluator",
            name,
            write_csv,
            batch_size,
            show_progress_bar,
            csv_end=f"results_@{self.at_k}.csv",
        )

    @property
    def _ranked_samples(self) -> list[dict[str, Any]]:
        return [sample for sample in self.samples if "documents" in sample]

    def measure(self, model: ScoringModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        metrics, base = self._reranked(model), self._first_stage()
        row = {key.upper(): value for key, value in metrics.items()}
        return Measured({**metrics, **base}, row, card=with_gains(metrics, base))

    def _reranked(self, model: ScoringModel) -> dict[str, float]:
        candidates = [_candidates(sample, self.always_rerank_positives) for sample in self.samples]
        # A query without a relevant document is worth 0 whatever the scores: it needs none.
        ranked = [some for some in candidates if any(some.relevant)]
        if not ranked:
            return dict.fromkeys(ranked_names(self.at_k), 0.0)
        pairs = [(some.query, document) for some in ranked for document in some.documents]
        scores = self._one_score(model, pairs)
        relevant = np.array([flag for some in ranked for flag in some.relevant], dtype=bool)
        counts = np.array([len(some.documents) for some in ranked], dtype=np.int64)
        # Reversed, since the metrics let the first of equal scores come first.
        metrics = Ranked.of(scores[::-1], relevant[::-1], counts[::-1]).metrics(self.at_k)
        share = len(ranked) / len(candidates)
        return {key: share * value for key, value in metrics.items()}

    def _first_stage(self) -> dict[str, float]:
        """The metrics of the given rankings, as ``base_map`` and so on; none without rankings."""
        samples = self._ranked_samples
        if not samples:
            return {}
        flags = [[document in sample["positive"] for document in sample["documents"]] for sample in samples]
        metrics = metrics_of_rankings(flags, [len(sample["positive"]) for sample in samples], self.at_k)
        return {f"base_{key}": value for key, value in metrics.items()}

    def metric_names(self, model: ScoringModel) -> list[str]:
        """The names of the metrics that a call returns."""
        names = ranked_names(self.at_k)
        base = [f"base_{name}" for name in names] if self._ranked_samples else []
        return self._prefixed([*names, *base])

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        ranked = "documents" in self.samples[0]
        return {
            "at_k": self.at_k,
            **({"always_rerank_positives": self.always_rerank_positives} if ranked else {}),
        }


def with_gains(metrics: Mapping[str, float], base: Mapping[str, float]) -> dict[str, str] | None:
    """What a model card shows of metrics: each with its gain over the first stage.

    Args:
        metrics: The reranker's metrics by name.
        base: Those of the first stage, with ``base_`` before each name; none without a first stage.

    Returns:
        Texts such as ``0.6335 (+0.2101)`` by name; None without a first stage.
    """
    if not base:
        return None
    return {key: f"{value:.4f} ({value - base[f'base_{key}']:+.4f})" for key, value in metrics.items()}


def _checked(evaluator: str, samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    checked = [checked_sample(evaluator, row, sample) for row, sample in enumerate(samples)]
    lacking = [row for row, sample in enumerate(checked) if not sample["positive"]]
    if len(lacking) == len(checked):
        raise ValueError(f"{evaluator} needs relevant documents; 'positive' is empty in each sample.")
    if lacking:
        logger.warning(
            "%s: %d of %d samples, the first is %d, have no relevant document in 'positive', and count as 0.",
            evaluator,
            len(lacking),
            len(checked),
            lacking[0],
        )
    return checked


def _candidates(sample: Mapping[str, Any], with_positives: bool) -> Candidates:
    query, positive = sample["query"], sample["positive"]
    if "documents" in sample and not with_positives:
        documents = sample["documents"]
        return Candidates(query, documents, [document in positive for document in documents])
    others = sample.get("negative")
    if others is None:
        others = [document for document in sample["documents"] if document not in positive]
    return Candidates(query, [*positive, *others], [True] * len(positive) + [False] * len(others))
