"""Samples of reranking: a query with its relevant and its other documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_st.evaluation.checked_inputs import check_texts


def checked_sample(evaluator: str, row: int, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a sample.

    Args:
        evaluator: Name for the error.
        row: Its number, for the error.
        sample: A ``query``, its relevant documents ``positive``, and either others ``negative`` or all
            candidates ``documents``. Documents are a list, or one text.

    Returns:
        The sample with lists of documents.

    Raises:
        ValueError: If a key is missing, or a text is None.
    """
    keys = set(sample) if isinstance(sample, Mapping) else set()
    if not {"query", "positive"} <= keys or ("negative" in keys) is ("documents" in keys):
        found = f"the keys {sorted(keys)}" if keys else repr(sample)[:80]
        raise ValueError(
            f"{evaluator} needs samples with 'query', 'positive', and either 'negative' or 'documents'; "
            f"sample {row} is {found}."
        )
    if sample["query"] is None:
        raise ValueError(f"{evaluator} needs a query in each sample; that of sample {row} is None.")
    others = "negative" if "negative" in keys else "documents"
    return {**sample, **{key: _documents(evaluator, row, key, sample) for key in ("positive", others)}}


def _documents(evaluator: str, row: int, key: str, sample: Mapping[str, Any]) -> list[Any]:
    texts = sample[key]
    if isinstance(texts, str):
        return [texts]
    if texts is None:
        raise ValueError(f"{evaluator} needs a list of texts for {key!r}; sample {row} has None.")
    return check_texts(evaluator, f"{key!r} of sample {row}", texts)
