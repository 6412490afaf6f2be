"""Evaluators of rerankers by their names of earlier releases, with the arguments in their order there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray_st.evaluation.reranker.pair_classification import CrossEncoderClassificationEvaluator
from ray_st.evaluation.reranker.pair_correlation import CrossEncoderCorrelationEvaluator
from ray_st.evaluation.reranker.pair_reranking import CrossEncoderRerankingEvaluator

logger = logging.getLogger(__name__)


def _warn(older: object, today: type) -> None:
    logger.warning(
        "%s is an old name: use %s, whose metrics it returns.", type(older).__name__, today.__name__
    )


class CEBinaryAccuracyEvaluator(CrossEncoderClassificationEvaluator):
    """Older name of :class:`CrossEncoderClassificationEvaluator`, whose metrics it returns.

    Args:
        sentence_pairs: Pairs of texts.
        labels: The class of each.
        name: Prefix of the metrics' names.
        threshold: Has no effect: the best threshold is found.
        write_csv: Whether to append a row to the CSV file.
        prompt_name: Name of the model's prompt; None for its default.
        batch_size: Pairs scored at once.
        show_progress_bar: Whether to show progress while scoring; None follows the logging level.
    """

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        labels: Sequence[int],
        name: str = "",
        threshold: float | None = None,
        write_csv: bool = True,
        *,
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> None:
        _warn(self, CrossEncoderClassificationEvaluator)
        if threshold is not None:
            logger.warning(
                "%s: threshold=%s has no effect: the best threshold is found.", type(self).__name__, threshold
            )
        super().__init__(
            sentence_pairs,
            labels,
            name=name,
            write_csv=write_csv,
            prompt_name=prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )


class CEBinaryClassificationEvaluator(CrossEncoderClassificationEvaluator):
    """Older name of :class:`CrossEncoderClassificationEvaluator`, whose metrics it returns.

    Args:
        sentence_pairs: Pairs of texts.
        labels: The class of each.
        name: Prefix of the metrics' names.
        show_progress_bar: Whether to show progress while scoring; None follows the logging level.
        write_csv: Whether to append a row to the CSV file.
        prompt_name: Name of the model's prompt; None for its default.
        batch_size: Pairs scored at once.
    """

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        labels: Sequence[int],
        name: str = "",
        show_progress_bar: bool | None = None,
        write_csv: bool = True,
        *,
        prompt_name: str | None = None,
        batch_size: int = 32,
    ) -> None:
        _warn(self, CrossEncoderClassificationEvaluator)
        super().__init__(
            sentence_pairs,
            labels,
            name=name,
            show_progress_bar=show_progress_bar,
            write_csv=write_csv,
            prompt_name=prompt_name,
            batch_size=batch_size,
        )


class CEF1Evaluator(CrossEncoderClassificationEvaluator):
    """Older name of :class:`CrossEncoderClassificationEvaluator`, whose metrics it returns.

    Args:
        sentence_pairs: Pairs of texts.
        labels: The class of each.
        name: Prefix of the metrics' names.
        prompt_name: Name of the model's prompt; None for its default.
        batch_size: Pairs scored at once.
        show_progress_bar: Whether to show progress while scoring; None follows the logging level.
        write_csv: Whether to append a row to the CSV file.
    """

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        labels: Sequence[int],
        *,
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        write_csv: bool = True,
    ) -> None:
        _warn(self, CrossEncoderClassificationEvaluator)
        super().__init__(
            sentence_pairs,
            labels,
            name=name,
            prompt_name=prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            write_csv=write_csv,
        )


class CESoftmaxAccuracyEvaluator(CrossEncoderClassificationEvaluator):
    """Older name of :class:`CrossEncoderClassificationEvaluator`, whose metrics it returns.

    Args:
        sentence_pairs: Pairs of texts.
        labels: The class of each.
        name: Prefix of the metrics' names.
        write_csv: Whether to append a row to the CSV file.
        prompt_name: Name of the model's prompt; None for its default.
        batch_size: Pairs scored at once.
        show_progress_bar: Whether to show progress while scoring; None follows the logging level.
    """

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        labels: Sequence[int],
        name: str = "",
        write_csv: bool = True,
        *,
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> None:
        _warn(self, CrossEncoderClassificationEvaluator)
        super().__init__(
            sentence_pairs,
            labels,
            name=name,
            write_csv=write_csv,
            prompt_name=prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )


class CECorrelationEvaluator(CrossEncoderCorrelationEvaluator):
    """Older name of :class:`CrossEncoderCorrelationEvaluator`, whose metrics it returns.

    Args:
        sentence_pairs: Pairs of texts.
        scores: The score of each.
        name: Prefix of the metrics' names.
        write_csv: Whether to append a row to the CSV file.
        prompt_name: Name of the model's prompt; None for its default.
        batch_size: Pairs scored at once.
        show_progress_bar: Whether to show progress while scoring; None follows the logging level.
    """

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        scores: Sequence[float],
        name: str = "",
        write_csv: bool = True,
        *,
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> None:
        _warn(self, CrossEncoderCorrelationEvaluator)
        super().__init__(
            sentence_pairs,
            scores,
            name=name,
            write_csv=write_csv,
            prompt_name=prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )


class CERerankingEvaluator(CrossEncoderRerankingEvaluator):
    """Older name of :class:`CrossEncoderRerankingEvaluator`, whose metrics it returns.

    Args:
        samples: Dicts with a ``query``, its relevant documents ``positive``, and others ``negative``.
        at_k: Ranks that count for ``mrr`` and ``ndcg``.
        name: Prefix of the metrics' names.
        write_csv: Whether to append a row to the CSV file.
        mrr_at_k: Older name of ``at_k``.
        always_rerank_positives: As for today's class.
        prompt_name: Name of the model's prompt; None for its default.
        batch_size: Pairs scored at once.
        show_progress_bar: Whether to show progress while scoring; None follows the logging level.
    """

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]],
        at_k: int = 10,
        name: str = "",
        write_csv: bool = True,
        mrr_at_k: int | None = None,
        *,
        always_rerank_positives: bool = True,
        prompt_name: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool | None = False,
    ) -> None:
        _warn(self, CrossEncoderRerankingEvaluator)
        super().__init__(
            samples,
            at_k=at_k,
            name=name,
            write_csv=write_csv,
            mrr_at_k=mrr_at_k,
            always_rerank_positives=always_rerank_positives,
            prompt_name=prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )
