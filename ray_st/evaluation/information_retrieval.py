"""How well queries find their documents in a corpus."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import trange

from ray_st.evaluation import base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.retrieval_ranks import Ranks, title
from ray_st.evaluation.top_k import Ranking, rank
from ray_st.similarity_functions import SimilarityFunction

logger = logging.getLogger(__name__)

ScoreFunction = Callable[[Tensor, Tensor], Tensor]


class InformationRetrievalEvaluator(base.SentenceEvaluator):
    """Searches the corpus for each query and measures accuracy, precision, recall, MRR, NDCG and MAP.

    Documents of equal score are ranked by ascending id, so that figures don't depend on the size of chunks. Queries
    are encoded with the model's prompt named "query" and the corpus with its "document", "passage" or "corpus" prompt,
    where it has them and no other is given. Queries without relevant documents are left out, with a warning.

    Metrics are ``{score}_accuracy@{k}`` and so on, where score is the similarity's name. The primary metric is NDCG at
    the largest k, of the main score function, else of the one that was best at the first call. CSV file:
    ``Information-Retrieval_evaluation[_{name}]_results.csv``.

    Args:
        queries: Texts by query id.
        corpus: Texts by document id.
        relevant_docs: For each query id the ids of its relevant documents.
        corpus_chunk_size: Documents encoded and searched at a time.
        mrr_at_k: Ranks k for the mean reciprocal rank.
        ndcg_at_k: Ranks k for the normalised discounted cumulative gain, at least one.
        accuracy_at_k: Ranks k for the share of queries that find anything.
        precision_recall_at_k: Ranks k for precision and recall.
        map_at_k: Ranks k for the mean average precision.
        show_progress_bar: Whether to show progress; None asks the logging level.
        batch_size: Texts encoded at once.
        name: Put before the metrics and into the file names.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep; by default the model's.
        score_functions: Functions of (q, d) and (m, d) giving scores (q, m), by name; by default the model's own.
        main_score_function: Name of the score function of the primary metric.
        query_prompt: Text to put before each query.
        query_prompt_name: Name of the model's prompt for queries.
        corpus_prompt: Text to put before each document.
        corpus_prompt_name: Name of the model's prompt for documents.
        write_predictions: Whether to also write the results of each query, one JSON object a line, to
            ``Information-Retrieval_evaluation[_{name}]_predictions_{score}.jsonl``.

    Raises:
        ValueError: If queries or corpus are empty or hold None, no query has a relevant document in the corpus, a k is
            not at least 1, or the main score function is not among the score functions.
    """

    def __init__(
        self,
        queries: Mapping[Any, str],
        corpus: Mapping[Any, str],
        relevant_docs: Mapping[Any, Set[Any]],
        corpus_chunk_size: int = 50_000,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        show_progress_bar: bool | None = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: Mapping[str, ScoreFunction] | None = None,
        main_score_function: str | SimilarityFunction | None = None,
        query_prompt: str | None = None,
        query_prompt_name: str | None = None,
        corpus_prompt: str | None = None,
        corpus_prompt_name: str | None = None,
        write_predictions: bool = False,
    ) -> None:
        self.relevant_docs = {key: set(found) for key, found in relevant_docs.items() if len(found)}
        self.queries_ids = [key for key in queries if key in self.relevant_docs]
        self.corpus_ids = sorted(corpus, key=lambda key: (type(key).__name__, key))
        _check_data(queries, corpus, self.relevant_docs)
        self.queries = base.check_texts(
            "InformationRetrievalEvaluator", "queries", _pick(queries, self.queries_ids)
        )
        self.corpus = base.check_texts(
            "InformationRetrievalEvaluator", "corpus", _pick(corpus, self.corpus_ids)
        )
        self._given_order = _places(corpus, self.corpus_ids)
        if corpus_chunk_size < 1:
            raise ValueError(f"corpus_chunk_size must be at least 1; got {corpus_chunk_size}.")
        self.corpus_chunk_size = corpus_chunk_size
        self.ranks = Ranks(*map(tuple, (accuracy_at_k, precision_recall_at_k, ndcg_at_k, mrr_at_k, map_at_k)))
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.batch_size = batch_size
        self.name = name
        self.write_csv, self.write_predictions = write_csv, write_predictions
        self.truncate_dim = truncate_dim
        self.score_functions = dict(score_functions) if score_functions else None
        self.main_score_function = SimilarityFunction(main_score_function) if main_score_function else None
        self._check_main(self.score_functions)
        self.query_prompt, self.query_prompt_name = query_prompt, query_prompt_name
        self.corpus_prompt, self.corpus_prompt_name = corpus_prompt, corpus_prompt_name
        self._stem = "_".join(filter(None, ["Information-Retrieval_evaluation", name]))
        self.csv_file = f"{self._stem}_results.csv"
        self._main: str | None = None

    def __call__(
        self,
        model: base.Model,
        output_path: str | None = None,
        epoch: float = -1,
        steps: int = -1,
        corpus_model: base.Model | None = None,
        corpus_embeddings: Tensor | None = None,
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics.

        Args:
            model: What to measure.
            output_path: Folder for files with the figures; None writes none.
            epoch: When in training, for the files; -1 for outside of training.
            steps: Steps into the epoch; -1 for its end.
            corpus_model: Encodes the corpus; by default the model itself.
            corpus_embeddings: The corpus already encoded (documents, d), in the order of the corpus.

        Returns:
            The metrics by name.
        """
        self._log_start(logger, epoch, steps, self.truncate_dim)
        functions = self.score_functions or {str(model.similarity_fn_name): model.similarity}
        self._check_main(functions)
        rankings = self._search(model, corpus_model or model, corpus_embeddings, functions)
        figures = {name: self._figures(ranking) for name, ranking in rankings.items()}
        if output_path is not None:
            self._write(output_path, epoch, steps, figures, rankings)
        self.primary_metric = self._primary(figures)
        found = {f"{name}_{key}": value for name, group in figures.items() for key, value in group.items()}
        found = self.prefix_name_to_metrics(found, self.name)
        self.store_metrics_in_model_card_data(model, found, epoch, steps)
        return found

    def _search(
        self,
        model: base.Model,
        corpus_model: base.Model,
        corpus_embeddings: Tensor | None,
        functions: Mapping[str, ScoreFunction],
    ) -> dict[str, Ranking]:
        queries = self._encode(model, self.queries, self.query_prompt, self.query_prompt_name, ["query"])
        k = self.ranks.largest
        rankings: dict[str, Ranking] = {}
        size, total = self.corpus_chunk_size, len(self.corpus)
        for first in trange(0, total, size, desc="Corpus chunks", disable=not self.show_progress_bar):
            part = slice(first, first + size)
            if corpus_embeddings is None:
                prompt, prompt_name = self.corpus_prompt, self.corpus_prompt_name
                texts = self.corpus[part]
                documents = self._encode(corpus_model, texts, prompt, prompt_name, base.DOCUMENT_PROMPTS)
            else:
                documents = corpus_embeddings[self._given_order[part].tolist()]
            for name, function in functions.items():
                new = rank(queries, documents, function, k, first)
                rankings[name] = rankings[name].merged(new, k) if name in rankings else new
        return rankings

    def _encode(
        self,
        model: base.Model,
        texts: Sequence[str],
        prompt: str | None,
        prompt_name: str | None,
        roles: Sequence[str],
    ) -> Tensor:
        if prompt is None and prompt_name is None:
            prompt_name = base.role_prompt(model, roles)
        return model.encode(
            texts,
            prompt=prompt,
            prompt_name=prompt_name,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_tensor=True,
            truncate_dim=self.truncate_dim,
        )

    def _figures(self, ranking: Ranking) -> dict[str, float]:
        places = {document: place for place, document in enumerate(self.corpus_ids)}
        relevant = [self.relevant_docs[query] for query in self.queries_ids]
        hits = [
            np.isin(found, [places[document] for document in wanted if document in places])
            for found, wanted in zip(ranking.documents.cpu().numpy(), relevant, strict=True)
        ]
        return self.ranks.figures(np.stack(hits), np.array([len(wanted) for wanted in relevant]))

    def _primary(self, figures: Mapping[str, Mapping[str, float]]) -> str:
        key = f"ndcg@{max(self.ranks.ndcg)}"
        if self._main not in figures:  # chosen once, so that checkpoints are compared by the same figure
            self._main = max(sorted(figures), key=lambda name: figures[name][key])
        main = self.main_score_function.value if self.main_score_function else self._main
        return f"{main}_{key}"

    def _write(
        self,
        folder: str,
        epoch: float,
        steps: int,
        figures: Mapping[str, Mapping[str, float]],
        rankings: Mapping[str, Ranking],
    ) -> None:
        if self.write_csv:
            columns = [(name, key) for name in sorted(figures) for key in self.ranks.csv_keys()]
            headers = ["epoch", "steps", *(f"{name}-{title(key)}" for name, key in columns)]
            row = [epoch, steps, *(figures[name][key] for name, key in columns)]
            append_row(folder, self.csv_file, headers, row)
        if self.write_predictions:
            for name, ranking in rankings.items():
                path = Path(folder) / f"{self._stem}_predictions_{name}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{line}\n" for line in self._predictions(ranking)), encoding="utf-8")

    def _predictions(self, ranking: Ranking) -> Iterator[str]:
        rows = zip(
            self.queries_ids, self.queries, ranking.scores.tolist(), ranking.documents.tolist(), strict=True
        )
        for query_id, query, scores, documents in rows:
            results = [
                {"corpus_id": self.corpus_ids[document], "score": score}
                for score, document in zip(scores, documents, strict=True)
            ]
            yield json.dumps({"query_id": query_id, "query": query, "results": results})

    def _check_main(self, functions: Mapping[str, ScoreFunction] | None) -> None:
        main = self.main_score_function
        if functions is not None and main is not None and main.value not in functions:
            raise ValueError(
                f"main_score_function {main.value!r} must be among the score functions {sorted(functions)}."
            )

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given(
            "truncate_dim", "query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name"
        )


def _pick(texts: Mapping[Any, str], keys: Sequence[Any]) -> list[str]:
    return [texts[key] for key in keys]


def _places(corpus: Mapping[Any, str], keys: Sequence[Any]) -> NDArray[np.int64]:
    place = {key: i for i, key in enumerate(corpus)}
    return np.array([place[key] for key in keys], dtype=np.int64)


def _check_data(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant: Mapping[Any, Set[Any]]
) -> None:
    if not queries or not corpus:
        raise ValueError(
            "InformationRetrievalEvaluator needs at least one query and one document; "
            f"found {len(queries)} queries and {len(corpus)} documents."
        )
    missing = [key for key in queries if key not in relevant]
    if len(missing) == len(queries):
        raise ValueError(
            f"None of the {len(queries)} queries has a relevant document: query ids are like {missing[0]!r}, keys of "
            f"relevant_docs with at least one document like {next(iter(relevant), None)!r}. Ids must be equal, type too."
        )
    if missing:
        logger.warning(
            "%d of %d queries have no relevant document and are left out.", len(missing), len(queries)
        )
    wanted = {document for key in queries for document in relevant.get(key, ())}
    if not any(document in corpus for document in wanted):
        raise ValueError(
            f"None of the relevant documents is in the corpus: relevant_docs names ids like {next(iter(wanted))!r}, "
            f"the corpus has ids like {next(iter(corpus))!r}. Ids must be equal, type too."
        )
