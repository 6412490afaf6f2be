"""Reranking of what BM25 finds in the small versions of BEIR's datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_st.evaluation.built_in import Measured
from ray_st.evaluation.evaluated_model import ScoringModel
from ray_st.evaluation.metrics.ranked import ranked_names
from ray_st.evaluation.reranker.pair_evaluator import PairEvaluator
from ray_st.evaluation.reranker.pair_reranking import CrossEncoderRerankingEvaluator, with_gains
from ray_st.evaluation.retrieval.nano_beir import checked_names, split_of
from ray_st.evaluation.retrieval.retrieval_tables import Reader, from_folder, from_hub
from ray_st.util.value_checks import check_at_least_one

ARGUMENTS = ("arguana", "touche2020")
"""Datasets left out by default: what is relevant to an argument there is its opposite."""


class CrossEncoderNanoBEIREvaluator(PairEvaluator):
    """Runs :class:`CrossEncoderRerankingEvaluator` on several datasets and aggregates its metrics.

    Metrics are those of each dataset, ``Nano{Title}_R{rerank_k}_ndcg@{at_k}`` and so on, and their
    aggregates, ``NanoBEIR_R{rerank_k}_{aggregate_key}_ndcg@{at_k}``, the primary metric; with ``base_``
    before a metric's name, those of BM25. CSV file: ``NanoBEIR_evaluation_{aggregate_key}_results.csv``,
    beside those of the datasets.

    A dataset in a folder is as :class:`ray_st.evaluation.NanoBEIREvaluator` reads it, with a further table
    ``bm25`` (columns ``query-id``, ``corpus-ids``: a list, best first).

    Further options are those of :class:`ray_st.evaluation.reranker.pair_evaluator.PairEvaluator`.

    Args:
        dataset_names: Short names such as "msmarco" and "nq"; by default all in the folder, or all but
            "arguana" and "touche2020", where arguments are matched with their opposites.
        dataset_id: Name on the Hub; subsets ``corpus``, ``queries``, ``qrels``, ``bm25``, a split
            ``Nano{Title}`` for each dataset.
        rerank_k: How many of the documents that BM25 found are reranked.
        at_k: Ranks that count for ``mrr`` and ``ndcg``.
        always_rerank_positives: Whether relevant documents that BM25 missed are ranked too.
        aggregate_fn: Maps the datasets' values of a metric to one.
        aggregate_key: Name of that function, for names of metrics and files.
        folder: Folder of the datasets; by default they are fetched from the Hub.

    Raises:
        ValueError: If a name is unknown, a number below 1, a dataset cannot be read or lacks a column, or
            an id in a table is not in another.
    """

    shown = ("rerank_k", "at_k", "always_rerank_positives")

    def __init__(
        self,
        dataset_names: Sequence[str] | None = None,
        dataset_id: str = "sentence-transformers/NanoBEIR-en",
        rerank_k: int = 100,
        at_k: int = 10,
        always_rerank_positives: bool = True,
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        aggregate_fn: Callable[[list[float]], float] = np.mean,
        aggregate_key: str = "mean",
        folder: str | Path | None = None,
    ) -> None:
        check_at_least_one(rerank_k=rerank_k, at_k=at_k)
        self.dataset_names = checked_names(dataset_names, folder, ARGUMENTS)
        self.dataset_id, self.folder = dataset_id, folder
        self.rerank_k, self.at_k = rerank_k, at_k
        self.always_rerank_positives, self.prompt_name = always_rerank_positives, prompt_name
        self.aggregate_fn, self.aggregate_key = aggregate_fn, aggregate_key
        self._set_options("NanoBEIR_evaluation", aggregate_key, write_csv, batch_size, show_progress_bar)
        self.name = f"NanoBEIR_R{rerank_k}_{aggregate_key}"
        self.primary_metric = f"ndcg@{at_k}"
        read = from_hub(dataset_id) if folder is None else from_folder(folder)
        self.evaluators = [self._evaluator(split_of(name), read) for name in self.dataset_names]

    def _evaluator(self, split: str, read: Reader) -> CrossEncoderRerankingEvaluator:
        return CrossEncoderRerankingEvaluator(
            samples=_samples(split, read, self.rerank_k),
            at_k=self.at_k,
            always_rerank_positives=self.always_rerank_positives,
            name=f"{split}_R{self.rerank_k}",
            prompt_name=self.prompt_name,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            write_csv=self.write_csv,
        )

    def __call__(
        self, model: ScoringModel, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(epoch, steps)
        found = [evaluator(model, output_path, epoch, steps) for evaluator in self.evaluators]
        aggregates = self._report(self._aggregated(found), model, output_path, epoch, steps)
        return {key: value for metrics in (*found, aggregates) for key, value in metrics.items()}

    def measure(self, model: ScoringModel) -> Measured:
        """Measures a model; see the class for the metrics. Only the aggregates are returned."""
        return self._aggregated([evaluator(model) for evaluator in self.evaluators])

    def _aggregated(self, found: Sequence[Mapping[str, float]]) -> Measured:
        named = list(zip(self.evaluators, found, strict=True))
        values = {
            key: [metrics[f"{evaluator.name}_{key}"] for evaluator, metrics in named] for key in self._keys()
        }
        aggregates = {key: float(self.aggregate_fn(some)) for key, some in values.items()}
        own = {key: aggregates[key] for key in ranked_names(self.at_k)}
        row = {key.upper(): value for key, value in own.items()}
        return Measured(aggregates, row, card=with_gains(own, aggregates))

    def _keys(self) -> list[str]:
        names = ranked_names(self.at_k)
        return [*names, *(f"base_{name}" for name in names)]

    def metric_names(self, model: ScoringModel) -> list[str]:
        """The names of the metrics that a call returns."""
        names = [name for evaluator in self.evaluators for name in evaluator.metric_names(model)]
        return [*names, *self._prefixed(self._keys())]

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        source = {} if self.folder else {"dataset_id": self.dataset_id}
        return {"dataset_names": self.dataset_names, **source, **super().get_config_dict()}


def _samples(split: str, read: Reader, rerank_k: int) -> list[dict[str, Any]]:
    """The queries of a dataset, each with its relevant documents and the first ones that BM25 found."""
    corpus = read.texts("corpus", split, empty=True)
    queries = read.texts("queries", split, empty=True)
    relevant = read.relevant(split)

    def of(texts: Mapping[str, Any], key: str, table: str, needed_by: str) -> Any:
        if key not in texts:
            raise ValueError(f"{split}: {needed_by} name {key!r}, which {table} lack.")
        return texts[key]

    return [
        {
            "query": of(queries, query, "queries", "bm25"),
            # In the order of their ids: that of a set differs between processes.
            "positive": [
                of(corpus, key, "corpus", "qrels") for key in sorted(of(relevant, query, "qrels", "bm25"))
            ],
            "documents": [of(corpus, key, "corpus", "bm25") for key in documents[:rerank_k]],
        }
        for query, documents in read.first_stage(split).items()
    ]
