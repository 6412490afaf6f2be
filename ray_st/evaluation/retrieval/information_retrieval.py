"""How well queries find their relevant documents in a corpus."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.checked_inputs import check_texts
from ray_st.evaluation.evaluated_model import DOCUMENT_ROLES, EvaluatedModel
from ray_st.evaluation.metrics.at_k import Ranks, title
from ray_st.evaluation.retrieval.blocks import merge_found, own_blocks, search, text_lengths
from ray_st.similarity_functions import SimilarityFunction
from ray_st.util.search.top_k import Ranking, ScoreFunction
from ray_st.util.team import Alone, Team, in_team, team_of
from ray_st.util.tensors import to_rows
from ray_st.util.value_checks import check_at_least_one

logger = logging.getLogger(__name__)

_NAME = "InformationRetrievalEvaluator"


class InformationRetrievalEvaluator(BuiltInEvaluator):
    """Searches the corpus for each query and measures accuracy, precision, recall, MRR, NDCG and MAP.

    Documents of equal score are ranked by ascending id, so that metrics don't depend on the size of chunks.
    In a team, such as the ranks of a training run, each process encodes and searches its own blocks of the
    corpus, and only the best documents are exchanged; the metrics equal those of a single process, to the
    last bit. Queries are encoded with the model's prompt named "query" and the corpus with its "document",
    "passage" or "corpus" prompt, if it has them and no other is given. Queries without relevant documents are
    skipped with a warning.

    Metrics are ``{score}_accuracy@{k}`` and so on, where score is the similarity's name. The primary metric
    is NDCG at the largest k, of the main score function, else of the one that was best at the first call. CSV
    file: ``Information-Retrieval_evaluation[_{name}]_results.csv``.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        queries: Texts by query id.
        corpus: Texts by document id.
        relevant_docs: For each query id the ids of its relevant documents.
        corpus_chunk_size: Documents encoded and searched at a time.
        mrr_at_k: Ranks k for the mean reciprocal rank.
        ndcg_at_k: Ranks k for the normalised discounted cumulative gain, at least one.
        accuracy_at_k: Ranks k for the share of queries that find anything relevant.
        precision_recall_at_k: Ranks k for precision and recall.
        map_at_k: Ranks k for the mean average precision.
        score_functions: Functions of (q, d) and (m, d) returning scores (q, m), by name; by default the
            model's own.
        main_score_function: Name of the score function of the primary metric.
        query_prompt: Text to put before each query.
        query_prompt_name: Name of the model's prompt for queries.
        corpus_prompt: Text to put before each document.
        corpus_prompt_name: Name of the model's prompt for documents.
        write_predictions: Whether to also write the results of each query, one JSON object per line, to
            ``Information-Retrieval_evaluation[_{name}]_predictions_{score}.jsonl``.

    Raises:
        ValueError: If queries or corpus are empty or hold None, no query has a relevant document in the
            corpus, a k is less than 1, or the main score function is not among the score functions.
    """

    shown = ("truncate_dim", "query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name")

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
        self.queries = check_texts(_NAME, "queries", [queries[key] for key in self.queries_ids])
        self.corpus = check_texts(_NAME, "corpus", [corpus[key] for key in self.corpus_ids])
        place = {key: i for i, key in enumerate(corpus)}
        self._given_order = np.array([place[key] for key in self.corpus_ids])
        check_at_least_one(corpus_chunk_size=corpus_chunk_size)
        self.corpus_chunk_size = corpus_chunk_size
        self.ranks = Ranks(*map(tuple, (accuracy_at_k, precision_recall_at_k, ndcg_at_k, mrr_at_k, map_at_k)))
        self.write_predictions = write_predictions
        self.score_functions = dict(score_functions) if score_functions else None
        self.main_score_function = SimilarityFunction(main_score_function) if main_score_function else None
        self._check_main(self.score_functions)
        self.query_prompt, self.query_prompt_name = query_prompt, query_prompt_name
        self.corpus_prompt, self.corpus_prompt_name = corpus_prompt, corpus_prompt_name
        self._set_options(
            "Information-Retrieval_evaluation", name, write_csv, batch_size, show_progress_bar, truncate_dim
        )
        self._main: str | None = None

    def __call__(
        self,
        model: EvaluatedModel,
        output_path: str | None = None,
        epoch: float = -1,
        steps: int = -1,
        corpus_model: EvaluatedModel | None = None,
        corpus_embeddings: Tensor | None = None,
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics.

        Args:
            model: What to measure.
            output_path: Folder for files with the metrics; None writes none.
            epoch: Epoch of training, for the files; -1 outside training.
            steps: Steps into the epoch; -1 for its end.
            corpus_model: Encodes the corpus; by default the model itself.
            corpus_embeddings: Embeddings of the corpus (documents, d), in its order.

        Returns:
            The metrics by name.

        Raises:
            ValueError: If ``corpus_embeddings`` has the wrong number of rows or dimensions, or a score is
                nan.
        """
        self._log_start(epoch, steps)
        rankings = self._rankings(model, corpus_model or model, corpus_embeddings)
        if output_path is not None and self.write_predictions:
            self._write_predictions(output_path, rankings)
        return self._report(self._measured(rankings), model, output_path, epoch, steps)

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        return self._measured(self._rankings(model, model, None))

    def _rankings(
        self, model: EvaluatedModel, corpus_model: EvaluatedModel, corpus_embeddings: Tensor | None
    ) -> dict[str, Ranking]:
        functions = self.score_functions or {str(model.similarity_fn_name): model.similarity}
        self._check_main(functions)
        team, k = team_of(model), self.ranks.largest
        show = self.show_progress_bar and team.rank == 0
        prompt = _prompt(self.query_prompt, self.query_prompt_name) | {"convert_to_tensor": True}
        queries: Tensor = self._encode(model, self.queries, ["query"], show_progress_bar=show, **prompt)
        prompt = _prompt(self.corpus_prompt, self.corpus_prompt_name) | {"convert_to_tensor": True}

        def embeddings_of(block: NDArray[np.int64]) -> Tensor:
            if corpus_embeddings is not None:
                return to_rows(corpus_embeddings[self._given_order[block]]).to(queries.device)
            texts = [self.corpus[document] for document in block]
            return self._encode(corpus_model, texts, DOCUMENT_ROLES, show_progress_bar=False, **prompt)

        lengths = self._lengths(corpus_model, corpus_embeddings, team)
        blocks = own_blocks(lengths, self.batch_size, self.corpus_chunk_size, team)
        with in_team(corpus_model, Alone()):
            found = search(queries, blocks, embeddings_of, functions, k, show)
        found = merge_found(team, found, k)
        for name, ranking in found.items():
            self._check_numbers(name, ranking)
        return found

    def _check_numbers(self, function: str, ranking: Ranking) -> None:
        if place := ranking.place_of_nan():
            raise ValueError(
                f"The {function!r} score of query {self.queries_ids[place[0]]!r} and document "
                f"{self.corpus_ids[place[1]]!r} is no number: an embedding holds NaN, as after a training "
                "that diverged, or the score function returned it."
            )

    def _lengths(self, model: EvaluatedModel, embeddings: Tensor | None, team: Team) -> NDArray[np.int64]:
        if embeddings is None:
            return text_lengths(model, self.corpus, team)
        if len(embeddings) != len(self.corpus):
            raise ValueError(
                f"corpus_embeddings needs a row for each of the {len(self.corpus)} documents; found "
                f"{len(embeddings)}."
            )
        return np.ones(len(embeddings), dtype=np.int64)

    def _measured(self, rankings: Mapping[str, Ranking]) -> Measured:
        found = {name: self._metrics(ranking) for name, ranking in rankings.items()}
        key = f"ndcg@{max(self.ranks.ndcg)}"
        if self._main not in found:  # chosen once, so that checkpoints are compared by the same metric
            self._main = max(sorted(found), key=lambda name: found[name][key])
        main = self.main_score_function.value if self.main_score_function else self._main
        return Measured(
            {f"{name}_{key}": value for name, metrics in found.items() for key, value in metrics.items()},
            {
                f"{name}-{title(key)}": found[name][key]
                for name in sorted(found)
                for key in self.ranks.csv_keys()
            },
            f"{main}_{key}",
        )

    def _metrics(self, ranking: Ranking) -> dict[str, float]:
        places = {document: place for place, document in enumerate(self.corpus_ids)}
        relevant = [self.relevant_docs[query] for query in self.queries_ids]
        hits = [
            np.isin(found, [places[document] for document in wanted if document in places])
            for found, wanted in zip(ranking.documents.cpu().numpy(), relevant, strict=True)
        ]
        return self.ranks.metrics(np.stack(hits), np.array([len(wanted) for wanted in relevant]))

    def _write_predictions(self, folder: str, rankings: Mapping[str, Ranking]) -> None:
        stem = self.csv_file.removesuffix("_results.csv")
        for name, ranking in rankings.items():
            path = Path(folder) / f"{stem}_predictions_{name}.jsonl"
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

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        functions = self.score_functions or [str(model.similarity_fn_name)]
        return self._prefixed(f"{name}_{key}" for name in functions for key in self.ranks.csv_keys())


def _prompt(prompt: str | None, name: str | None) -> dict[str, str | bool | None]:
    """Options of ``encode`` that override a role's prompt; none if neither was given."""
    return {} if prompt is None and name is None else {"prompt": prompt, "prompt_name": name}


def _check_data(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant: Mapping[Any, Set[Any]]
) -> None:
    """Raises for data in which nothing can be found; warns of queries without relevant documents."""
    if not queries or not corpus:
        raise ValueError(
            "InformationRetrievalEvaluator needs at least one query and one document; "
            f"found {len(queries)} queries and {len(corpus)} documents."
        )
    missing = [key for key in queries if key not in relevant]
    if len(missing) == len(queries):
        raise ValueError(
            f"None of the {len(queries)} queries has a relevant document: query ids are like "
            f"{missing[0]!r}, keys of relevant_docs with at least one document like "
            f"{next(iter(relevant), None)!r}. Ids must be equal, type too."
        )
    if missing:
        logger.warning(
            "%d of %d queries have no relevant document and are left out.", len(missing), len(queries)
        )
    wanted = {document for key in queries for document in relevant.get(key, ())}
    if not any(document in corpus for document in wanted):
        raise ValueError(
            "None of the relevant documents is in the corpus: relevant_docs names ids like "
            f"{next(iter(wanted))!r}, the corpus has ids like {next(iter(corpus))!r}. Ids must be equal, "
            "type too."
        )
