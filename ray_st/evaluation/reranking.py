"""How far up relevant documents come when the candidates of each query are ranked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.distinct import distinct
from ray_st.evaluation.metrics.ranked import Ranked
from ray_st.util.similarity import cos_sim
from ray_st.util.tensors import to_numpy

logger = logging.getLogger(__name__)


class RerankingEvaluator(base.SentenceEvaluator):
    """Ranks the candidates of each query by their similarity to it.

    Metrics are ``map``, ``mrr@{at_k}`` and ``ndcg@{at_k}``; the last is the primary metric. Of equal scores the earlier
    document comes first for ``mrr``, those in ``positive`` before others; for ``ndcg`` they share their gain, and for
    ``map`` the precision after all of them. CSV file: ``RerankingEvaluator[_{name}]_results_@{at_k}.csv``.

    Queries are encoded with the model's prompt named "query", documents with its "document", "passage" or "corpus"
    prompt, where it has them. Samples without a relevant or without another document are left out with a warning.

    Args:
        samples: Dicts with a ``query``, its relevant documents ``positive``, and either other documents ``negative`` or
            all candidates ``documents``, of which those not in ``positive`` are the others. Documents are a list, or
            one text. Of a dict of samples, the values are taken.
        at_k: Ranks that count for ``mrr`` and ``ndcg``.
        name: Put before the metrics and into the file name.
        write_csv: Whether to write the CSV file where an output folder is given.
        similarity_fct: Maps a query's embedding (1, d) and its documents' (n, d) to n scores.
        batch_size: Texts encoded at once.
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        use_batched_encoding: Whether to encode all texts together, each distinct one once; else one query and its
            documents after the other, which is slower and holds fewer embeddings.
        truncate_dim: Dimensions to keep; by default the model's.
        mrr_at_k: Older name of ``at_k``.

    Raises:
        ValueError: If there is no sample, a sample misses a key or has a text that is None, none has both relevant and
            other documents, or ``at_k`` is below 1; when called, if a score is nan or infinite, or ``similarity_fct``
            returns another number of scores.
    """

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
        base.check_equal_lengths(who, samples=samples)
        if mrr_at_k is not None:
            logger.warning("%s: mrr_at_k is the older name of at_k; at_k=%d is used.", who, mrr_at_k)
        self.at_k = at_k if mrr_at_k is None else mrr_at_k
        if self.at_k < 1:
            raise ValueError(f"{who} needs at_k of at least 1; got {self.at_k}.")
        self.samples = _usable(who, samples.values() if isinstance(samples, Mapping) else samples)
        self.name = name
        self.write_csv = write_csv
        self.similarity_fct = similarity_fct
        self.batch_size = batch_size
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.use_batched_encoding = use_batched_encoding
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["RerankingEvaluator", name, f"results_@{self.at_k}.csv"]))
        self.primary_metric = f"ndcg@{self.at_k}"

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        ranked = self._ranked(model)
        metrics = {
            "map": ranked.average_precision(),
            f"mrr@{self.at_k}": ranked.reciprocal_rank(self.at_k),
            f"ndcg@{self.at_k}": ranked.ndcg(self.at_k),
        }
        logger.info("%s", ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
        if output_path is not None and self.write_csv:
            headers = ["epoch", "steps", *(key.upper() for key in metrics)]
            append_row(output_path, self.csv_file, headers, [epoch, steps, *metrics.values()])
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _ranked(self, model: base.Model) -> Ranked:
        embeddings = self._together(model) if self.use_batched_encoding else self._one_by_one(model)
        scores = torch.cat([self._scores(query, documents) for query, documents in embeddings])
        relevant = [[True] * len(s["positive"]) + [False] * len(s["negative"]) for s in self.samples]
        counts = np.asarray([len(flags) for flags in relevant])
        values = to_numpy(scores)
        if not np.isfinite(values).all():
            sample = np.repeat(np.arange(len(counts)), counts)[~np.isfinite(values)][0]
            raise ValueError(
                f"{type(self).__name__} needs finite scores; those of query {self.samples[sample]['query']!r:.80} are "
                "not. Look for nan in the model's weights."
            )
        return Ranked.of(values, np.concatenate(relevant), counts)

    def _together(self, model: base.Model) -> Iterator[tuple[Tensor, Tensor]]:
        queries, query_places = distinct([sample["query"] for sample in self.samples])
        documents, places = distinct(
            [text for sample in self.samples for text in (*sample["positive"], *sample["negative"])]
        )
        found = self._encode(model, queries, ["query"], self.show_progress_bar)
        others = self._encode(model, documents, base.DOCUMENT_PROMPTS, self.show_progress_bar)
        ends = np.cumsum([len(sample["positive"]) + len(sample["negative"]) for sample in self.samples])
        for query, rows in zip(query_places, np.split(places, ends[:-1]), strict=True):
            yield found[query : query + 1], others[torch.from_numpy(rows)]

    def _one_by_one(self, model: base.Model) -> Iterator[tuple[Tensor, Tensor]]:
        for sample in tqdm(self.samples, desc="Samples", disable=not self.show_progress_bar):
            documents = [*sample["positive"], *sample["negative"]]
            query = self._encode(model, [sample["query"]], ["query"], False)
            yield query, self._encode(model, documents, base.DOCUMENT_PROMPTS, False)

    def _scores(self, query: Tensor, documents: Tensor) -> Tensor:
        scores = self.similarity_fct(query, documents).flatten()
        if len(scores) != len(documents):
            raise ValueError(
                f"similarity_fct must return a score for each document; got {len(scores)} for {len(documents)}."
            )
        return scores

    def _encode(
        self, model: base.Model, texts: Sequence[str], roles: Sequence[str], progress: bool
    ) -> Tensor:
        return model.encode(
            texts,
            prompt_name=base.role_prompt(model, roles),
            batch_size=self.batch_size,
            show_progress_bar=progress,
            convert_to_tensor=True,
            truncate_dim=self.truncate_dim,
            **base.role_task(model, roles),
        )

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["map", f"mrr@{self.at_k}", f"ndcg@{self.at_k}"])

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given("at_k", "truncate_dim")


def _usable(evaluator: str, samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples as query, positive and negative; those that lack a side are left out."""
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
    keys = set(sample) if isinstance(sample, Mapping) else set()
    if not {"query", "positive"} <= keys or ("negative" in keys) is ("documents" in keys):
        found = f"the keys {sorted(keys)}" if keys else repr(sample)[:80]
        raise ValueError(
            f"{evaluator} needs samples with 'query', 'positive', and either 'negative' or 'documents'; sample {row} "
            f"is {found}."
        )
    if sample["query"] is None:
        raise ValueError(f"{evaluator} needs a query in each sample; that of sample {row} is None.")
    positive = _documents(evaluator, row, "positive", sample)
    if "negative" in keys:
        negative = _documents(evaluator, row, "negative", sample)
    else:
        negative = [text for text in _documents(evaluator, row, "documents", sample) if text not in positive]
    return {**sample, "positive": positive, "negative": negative}


def _documents(evaluator: str, row: int, key: str, sample: Mapping[str, Any]) -> list[Any]:
    texts = sample[key]
    if isinstance(texts, str):
        return [texts]
    if texts is None:
        raise ValueError(f"{evaluator} needs a list of texts for {key!r}; sample {row} has None.")
    return base.check_texts(evaluator, f"{key!r} of sample {row}", texts)
