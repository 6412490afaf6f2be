"""Makes the evaluators that a run file lists, from the rows of their tables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray_st.cli.model_kinds import ModelKind
from ray_st.cli.named_classes import class_options, find_class
from ray_st.cli.run_checks import at, located
from ray_st.cli.run_tables import open_table
from ray_st.cli.runfile import EvaluatorSpec, RunFile, kind_of

if TYPE_CHECKING:
    from datasets import Dataset

    from ray_st.evaluation import SentenceEvaluator

_ABSTRACT = ("SentenceEvaluator", "SequentialEvaluator")


def make_evaluator(run: RunFile) -> SentenceEvaluator | None:
    """Makes the evaluators of a run file as one, with their rows; None if there are none.

    Raises:
        RunFileError: As :func:`make_evaluators`.
    """
    made = make_evaluators(run)
    if len(made) < 2:
        return made[0] if made else None
    from ray_st.evaluation import SequentialEvaluator

    return SequentialEvaluator(made)


def make_evaluators(run: RunFile) -> list[SentenceEvaluator]:
    """Makes the evaluators of a run file, with their rows.

    Raises:
        RunFileError: If an evaluator, or one of its options, is unknown, or its rows do not fit.
    """
    where = at(run.source, "evaluators")
    kind = kind_of(run)
    return [_make_evaluator(spec, at(where, place), kind) for place, spec in enumerate(run.evaluators)]


def _make_evaluator(spec: EvaluatorSpec, where: str, kind: ModelKind) -> SentenceEvaluator:
    from ray_st.evaluation import SentenceEvaluator

    known = {name: cls for name, cls in kind.evaluator_names().items() if name not in _ABSTRACT}
    cls = find_class(spec.type, "evaluator", known, SentenceEvaluator, at(where, "type"))
    parameters = inspect.signature(cls).parameters
    wanted = [name for name, part in parameters.items() if part.default is inspect.Parameter.empty]
    free = {name: part for name, part in parameters.items() if name not in wanted}
    options = class_options(spec.options, free, cls, where)
    columns = []
    with located(where, ValueError, TypeError):
        if spec.data is not None:
            table = open_table(spec.data, at(where, "data"))
            columns = _ARRANGED.get(tuple(wanted), _in_order)(table, wanted)
        evaluator: SentenceEvaluator = cls(*columns, **options)
    return evaluator


def _in_order(table: Dataset, wanted: list[str]) -> list[Any]:
    """The columns of a table as the evaluator's leading arguments."""
    if len(table.column_names) != len(wanted):
        raise ValueError(f"expected the columns {wanted}, in this order; found {table.column_names}")
    return [list(table[name]) for name in table.column_names]


def _queries_and_passages(table: Dataset, wanted: list[str]) -> list[Any]:
    """Queries, corpus and relevant passages from rows of (query, passage); equal texts are merged."""
    queries, passages = _in_order(table, ["query", "passage"])
    query_ids, passage_ids = _numbered("q", queries), _numbered("d", passages)
    relevant: dict[str, set[str]] = {}
    for query, passage in zip(queries, passages, strict=True):
        relevant.setdefault(query_ids[query], set()).add(passage_ids[passage])
    return [
        {number: text for text, number in query_ids.items()},
        {number: text for text, number in passage_ids.items()},
        relevant,
    ]


def _numbered(letter: str, texts: list[str]) -> dict[str, str]:
    return {text: f"{letter}{number}" for number, text in enumerate(dict.fromkeys(texts))}


def _pairs(table: Dataset, wanted: list[str]) -> list[Any]:
    """Pairs of texts and their labels or scores from rows of (text, text, label)."""
    first, second, labels = _in_order(table, ["sentence1", "sentence2", wanted[1]])
    return [list(zip(first, second, strict=True)), labels]


def _samples(table: Dataset, wanted: list[str]) -> list[Any]:
    """Rows as dictionaries, for evaluators of queries with lists of texts."""
    return [table.to_list()]


_ARRANGED: Mapping[tuple[str, ...], Callable[[Dataset, list[str]], list[Any]]] = {
    ("queries", "corpus", "relevant_docs"): _queries_and_passages,
    ("sentence_pairs", "labels"): _pairs,
    ("sentence_pairs", "scores"): _pairs,
    ("samples",): _samples,
}
"""How the columns of a table become the required arguments of an evaluator; by default one by one."""
