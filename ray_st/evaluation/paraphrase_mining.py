"""How well the most similar pairs in a set of texts match its duplicates."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import TypeAlias

import numpy as np

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.checked_inputs import check_texts
from ray_st.evaluation.evaluated_model import EvaluatedModel
from ray_st.evaluation.metrics.thresholds import Cuts
from ray_st.util.search.paraphrases import paraphrase_mining

logger = logging.getLogger(__name__)

Graph: TypeAlias = Mapping[Hashable, Mapping[Hashable, bool]]
_COLUMNS = ("precision", "recall", "f1", "threshold", "average_precision")


class ParaphraseMiningEvaluator(BuiltInEvaluator):
    """Mines the most similar pairs by cosine and measures how many of them are duplicates.

    Metrics are ``average_precision``, the primary one, and at the threshold of the best F1 ``f1``,
    ``precision``, ``recall`` and ``threshold``. Recall counts all duplicates, including those that are not
    mined. CSV file: ``paraphrase_mining_evaluation[_{name}]_results.csv``. A team that shares the model's
    work shares the search too.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        sentences_map: Texts by id, at least two.
        duplicates_list: Pairs of ids of duplicates.
        duplicates_dict: The same as ``duplicates_dict[id1][id2]``, true for duplicates in either order. Pairs
            with an unknown id are skipped with a warning; a text is no duplicate of itself.
        add_transitive_closure: Whether duplicates of duplicates are duplicates.
        query_chunk_size: Texts compared at a time.
        corpus_chunk_size: Texts that they are compared with at a time.
        max_pairs: Most pairs to mine.
        top_k: Most neighbours of each text that become pairs.

    Raises:
        ValueError: If there are fewer than two texts, a text is None, or no pair of them is a duplicate.
    """

    shown = ("add_transitive_closure", "max_pairs", "top_k", "truncate_dim")

    def __init__(
        self,
        sentences_map: Mapping[Hashable, str],
        duplicates_list: Iterable[tuple[Hashable, Hashable]] | None = None,
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
        self.sentences = check_texts(who, "sentences_map", list(sentences_map.values()))
        if len(self.ids) < 2:
            raise ValueError(f"{who} needs at least one pair of texts; sentences_map holds {len(self.ids)}.")
        pairs = [*(duplicates_list or ()), *_true_pairs(duplicates_dict or {})]
        self.duplicates = _known(pairs, {key: i for i, key in enumerate(self.ids)})
        self.add_transitive_closure = add_transitive_closure
        if add_transitive_closure:
            self.duplicates = _closure(self.duplicates)
        if not self.duplicates:
            raise ValueError(
                f"{who} needs at least one pair of duplicates among its {len(self.ids)} texts; {len(pairs)} "
                f"pairs were given, and ids are like {self.ids[0]!r}. Ids must be equal, type too."
            )
        self.total_num_duplicates = len(self.duplicates)
        self.query_chunk_size, self.corpus_chunk_size = query_chunk_size, corpus_chunk_size
        self.max_pairs, self.top_k = max_pairs, top_k
        self.primary_metric = "average_precision"
        self._set_options(
            "paraphrase_mining_evaluation", name, write_csv, batch_size, show_progress_bar, truncate_dim
        )

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
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
        values = (precision, recall, f1, threshold, cuts.average_precision())
        metrics = dict(zip(_COLUMNS, values, strict=True))
        return Measured(metrics, metrics)

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(_COLUMNS)


def _true_pairs(graph: Graph) -> Iterator[tuple[Hashable, Hashable]]:
    return ((one, other) for one, others in graph.items() for other, is_true in others.items() if is_true)


def _known(pairs: Iterable[tuple[Hashable, Hashable]], place: Mapping[Hashable, int]) -> set[tuple[int, int]]:
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
        # The smaller group joins the larger one, so that no member moves more than log n times.
        small, large = sorted((group.setdefault(one, [one]), group.setdefault(other, [other])), key=len)
        if small is not large:
            large += small
            group.update(dict.fromkeys(small, large))
    groups = {id(members): members for members in group.values()}.values()
    return {pair for members in groups for pair in combinations(sorted(members), 2)}
