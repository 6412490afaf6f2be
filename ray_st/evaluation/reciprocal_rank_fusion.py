"""Quality of two rankings of the same documents, and of their reciprocal rank fusion."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_st.evaluation.built_in import append_row
from ray_st.evaluation.checked_inputs import check_equal_lengths
from ray_st.evaluation.metrics.ranked import metrics_of_rankings, ranked_names
from ray_st.evaluation.sentence_evaluator import SentenceEvaluator
from ray_st.util.value_checks import check_at_least_one

logger = logging.getLogger(__name__)

_KEYS = ("query_id", "query", "positive", "documents")


class ReciprocalRankFusionEvaluator(SentenceEvaluator):
    """Fuses two retrievers' results for each query, and measures all three rankings.

    A document's score is the sum of 1 / (``rrf_k`` + rank) over the rankings that hold it, with ranks from 1;
    ties keep the order of the first retriever (Cormack, Clarke and Büttcher 2009). Metrics are ``map``,
    ``mrr@{at_k}`` and ``ndcg@{at_k}`` of the fusion, and the same with ``dense_`` and ``sparse_`` before it;
    the fusion's ``ndcg`` is the primary metric. Relevant documents that a ranking lacks count as its last
    ones; a ranking without any is worth 0. CSV file:
    ``ReciprocalRankFusion_evaluation[_{name}]_results.csv``. No model is used.

    Args:
        dense_samples: Dicts with ``query_id``, ``query``, ``positive`` (its relevant documents, or one) and
            ``documents`` (those that a retriever found, best first).
        sparse_samples: What another retriever found for the same queries, in the same order.
        at_k: Ranks that count for ``mrr`` and ``ndcg``.
        rrf_k: Constant of the fusion: the larger, the less the first ranks count.
        name: Prefix of the metrics' names, and part of the names of files.
        batch_size: Has no effect: nothing is encoded.
        show_progress_bar: Has no effect either.
        write_csv: Whether to append a row to the CSV file, if an output folder is given.
        write_predictions: Whether to write the fused rankings as JSON Lines there, too.

    Raises:
        ValueError: If there is no sample, the two lists differ in their queries, a sample lacks a key, or
            ``at_k`` is below 1.
    """

    def __init__(
        self,
        dense_samples: Sequence[Mapping[str, Any]],
        sparse_samples: Sequence[Mapping[str, Any]],
        at_k: int = 10,
        rrf_k: int = 60,
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        write_predictions: bool = False,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, dense_samples=dense_samples, sparse_samples=sparse_samples)
        for row, pair in enumerate(zip(dense_samples, sparse_samples, strict=True)):
            _check(who, row, *pair)
        self.dense_samples, self.sparse_samples = list(dense_samples), list(sparse_samples)
        check_at_least_one(at_k=at_k)
        self.at_k, self.rrf_k, self.name = at_k, rrf_k, name
        self.batch_size, self.show_progress_bar = batch_size, show_progress_bar
        self.write_csv, self.write_predictions = write_csv, write_predictions
        stem = "_".join(filter(None, ["ReciprocalRankFusion_evaluation", name]))
        self.csv_file, self.predictions_file = f"{stem}_results.csv", f"{stem}_predictions.jsonl"
        self.primary_metric = f"ndcg@{at_k}"

    def __call__(
        self, model: object = None, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures the rankings; see the class for the metrics.

        Args:
            model: Not used; an output folder may be given in its place.
            output_path: Folder for files with the metrics; None writes none.
            epoch: Epoch of training, for the files.
            steps: Steps into the epoch.
        """
        if isinstance(model, str | Path):
            output_path = str(model)
        fused = [self._fused(*pair) for pair in zip(self.dense_samples, self.sparse_samples, strict=True)]
        relevant = [_documents(sample["positive"]) for sample in self.dense_samples]
        metrics = {
            **self._metrics("dense_", (sample["documents"] for sample in self.dense_samples), relevant),
            **self._metrics("sparse_", (sample["documents"] for sample in self.sparse_samples), relevant),
            **self._metrics("", fused, relevant),
        }
        logger.info("%s", ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
        if output_path is not None:
            self._write(output_path, [epoch, steps, *metrics.values()], fused)
        return self.prefix_name_to_metrics(metrics, self.name)

    def _fused(self, dense: Mapping[str, Any], sparse: Mapping[str, Any]) -> list[str]:
        scores: dict[str, float] = {}
        for sample in (dense, sparse):
            ranks = {document: rank for rank, document in enumerate(sample["documents"], start=1)}
            for document, rank in ranks.items():
                scores[document] = scores.get(document, 0.0) + 1 / (self.rrf_k + rank)
        return sorted(scores, key=lambda document: -scores[document])

    def _metrics(
        self, prefix: str, rankings: Iterable[Sequence[str]], relevant: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        flags = [
            [document in wanted for document in ranking]
            for ranking, wanted in zip(rankings, relevant, strict=True)
        ]
        metrics = metrics_of_rankings(flags, [len(wanted) for wanted in relevant], self.at_k)
        return {prefix + name: value for name, value in metrics.items()}

    def _write(self, folder: str, row: list[float], fused: list[list[str]]) -> None:
        if self.write_csv:
            names = [name.upper() for name in ranked_names(self.at_k)]
            kinds = [f"{who}_{name}" for who in ("Dense", "Sparse", "Fusion") for name in names]
            append_row(folder, self.csv_file, ["epoch", "steps", *kinds], row)
        if self.write_predictions:
            path = Path(folder) / self.predictions_file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as stream:
                for sample, documents in zip(self.dense_samples, fused, strict=True):
                    known = {"query_id": sample["query_id"], "query": sample["query"]}
                    line = {**known, "positive": _documents(sample["positive"]), "documents": documents}
                    stream.write(json.dumps(line) + "\n")

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        return {"at_k": self.at_k, "rrf_k": self.rrf_k, "write_predictions": self.write_predictions}


def _check(who: str, row: int, dense: Mapping[str, Any], sparse: Mapping[str, Any]) -> None:
    for kind, sample in (("dense_samples", dense), ("sparse_samples", sparse)):
        lacking = [key for key in _KEYS if key not in sample]
        if lacking:
            raise ValueError(f"{who}: sample {row} of {kind} lacks {lacking}; it has {sorted(sample)}.")
    if dense["query_id"] != sparse["query_id"]:
        raise ValueError(
            f"{who} needs both lists in the order of the same queries; sample {row} is of query "
            f"{dense['query_id']!r} in dense_samples and of {sparse['query_id']!r} in sparse_samples."
        )


def _documents(positive: str | Sequence[str]) -> list[str]:
    return [positive] if isinstance(positive, str) else list(positive)
