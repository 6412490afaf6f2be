"""How well the most similar pairs in a set of texts are its duplicates."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.metrics.thresholds import Cuts
from ray_st.util.search.paraphrases import paraphrase_mining

logger = logging.getLogger(__name__)

Graph = Mapping[Any, Mapping[Any, bool]]
_COLUMNS = ("precision", "recall", "f1", "threshold", "average_precision")


class ParaphraseMiningEvaluator(base.SentenceEvaluator):
    """Mines the most similar pairs by cosine and measures how many of them are duplicates.

    Metrics are ``average_precision``, the primary one, and at the threshold of the best F1 ``f1``, ``precision``,
    ``recall`` and ``threshold``. Recall counts all duplicates, also those that are not mined. CSV file:
    ``paraphrase_mining_evaluation[_{name}]_results.csv``. A team that shares the model's work shares the search too.

    Args:
        sentences_map: Texts by id, at least two.
        duplicates_list: Pairs of ids of duplicates.
        duplicates_dict: The same as ``duplicates_dict[id1][id2]``, true for duplicates in either order. Pairs with an
            unknown id are left out, with a warning; a text is no duplicate of itself.
        add_transitive_closure: Whether duplicates of duplicates are duplicates.
        query_chunk_size: Texts that are compared at a time.
        corpus_chunk_size: Texts that they are compared with at a time.
        max_pairs: Most pairs to mine.
        top_k: Most neighbours of each text that become pairs.
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        batch_size: Texts encoded at once.
        name: Put before the metrics and into the file name.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep; by default the model's.

    Raises:
        ValueError: If there are fewer than two texts, a text is None, or no pair of them is a duplicate.
    """

    def __init__(
        self,
        sentences_map: Mapping[Any, str],
        duplicates_list: Iterable[tuple[Any, Any]] | None = None,
        duplicates_dict: Graph | None = None,
        add_transitive_closure: bool = False,
        query_chunk_size: int = 5000,
        corpus_chunk_size: int = 100_000,
        max_pairs: int = 500_000,
        top_k: int = 100,
        show_progress_bar: bool | None = False,
        batch_size: int = 16,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        self.ids = list(sentences_map)
        self.sentences = base.check_texts(who, "sentences_map", list(sentences_map.values()))
        if len(self.ids) < 2:
            raise ValueError(f"{who} needs at least one pair of texts; sentences_map holds {len(self.ids)}.")
        pairs = [*(duplicates_list or ()), *_true_pairs(duplicates_dict or {})]
        self.duplicates = _known(pairs, {key: i for i, key in enumerate(self.ids)})
        self.add_transitive_closure = add_transitive_closure
        if add_transitive_closure:
            self.duplicates = _closure(self.duplicates)
        if not self.duplicates:
            raise ValueError(
                f"{who} needs at least one pair of duplicates among its {len(self.ids)} texts; {len(pairs)} pairs were "
                f"given, and ids are like {self.ids[0]!r}. Ids must be equal, type too."
            )
        self.total_num_duplicates = len(self.duplicates)
        self.query_chunk_size, self.corpus_chunk_size = query_chunk_size, corpus_chunk_size
        self.max_pairs, self.top_k = max_pairs, top_k
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["paraphrase_mining_evaluation", name, "results.csv"]))
        self.primary_metric = "average_precision"

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        pairs = paraphrase_mining(
            model,
            self.sentences,
            self.show_progress_bar,
            self.batch_size,
            self.query_chunk_size,
            self.corpus_chunk_size,
            self.max_pairs,
            self.top_k,
            truncate_dim=self.truncate_dim,
        )
        scores = np.array([score for score, _, _ in pairs])
        right = np.array([(i, j) in self.duplicates for _, i, j in pairs])
        cuts = replace(Cuts.of(scores, right), positives=self.total_num_duplicates)
        f1, precision, recall, threshold = cuts.best_f1()
        metrics = {
            "average_precision": cuts.average_precision(),
            "f1": f1,
            "precision": precision,
            "recall": recall,
            "threshold": threshold,
        }
        if output_path is not None and self.write_csv:
            row = [epoch, steps, *(metrics[key] for key in _COLUMNS)]
            append_row(output_path, self.csv_file, ["epoch", "steps", *_COLUMNS], row)
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(_COLUMNS)

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given("add_transitive_closure", "max_pairs", "top_k", "truncate_dim")


def _true_pairs(graph: Graph) -> Iterator[tuple[Any, Any]]:
    return ((one, other) for one, others in graph.items() for other, is_true in others.items() if is_true)


def _known(pairs: Iterable[tuple[Any, Any]], place: Mapping[Any, int]) -> set[tuple[int, int]]:
    """Places i < j of the pairs whose ids are known."""
    pairs = list(pairs)
    known = [(place[one], place[other]) for one, other in pairs if one in place and other in place]
    if len(known) < len(pairs):
        unknown = len(pairs) - len(known)
        logger.warning(
            "%d of %d pairs of duplicates name an unknown id and are left out.", unknown, len(pairs)
        )
    return {(min(pair), max(pair)) for pair in known if pair[0] != pair[1]}


def _closure(pairs: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """All pairs within each connected group."""
    group: dict[int, list[int]] = {}
    for one, other in pairs:
        small, large = sorted((group.setdefault(one, [one]), group.setdefault(other, [other])), key=len)
        if small is not large:
            large += small
            group.update(dict.fromkeys(small, large))
    groups = {id(members): members for members in group.values()}.values()
    return {pair for members in groups for pair in combinations(sorted(members), 2)}
