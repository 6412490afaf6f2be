"""Checks of queries, corpus and what is relevant, before anything is encoded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from typing import Any

logger = logging.getLogger(__name__)


def check_retrieval_data(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant: Mapping[Any, Set[Any]]
) -> None:
    """Refuses data on which nothing can be found; warns of queries without relevant documents.

    Args:
        queries: Texts by query id.
        corpus: Texts by document id.
        relevant: For each query id the ids of its relevant documents, at least one.

    Raises:
        ValueError: If queries or corpus are empty, or no query has a relevant document in the corpus.
    """
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
