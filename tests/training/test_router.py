from __future__ import annotations

from typing import Any

import pytest

from module_helpers import DIMENSION, stirred, word_embeddings
from ray_st import SentenceTransformer
from ray_st.data.column_spec import ColumnSpec
from ray_st.models import Dense, Normalize, Pooling, Router
from ray_st.training.data.router_routes import check_router_mapping, checked_routes, routes_of, uses_all_rows

COLUMNS = ColumnSpec(("question", "answer"))
MAPPING = {"question": "query", "answer": "document"}


def model_of(rows: Any = ("query", "document"), **options: Any) -> SentenceTransformer:
    made = {name: [word_embeddings(update=True), Pooling(DIMENSION)] for name in rows}
    return SentenceTransformer(modules=[Router(made, **options), Normalize()], device="cpu")


def headed() -> SentenceTransformer:
    """A model whose Router comes last: one encoder, a map for each task."""
    heads = {name: [stirred(Dense(DIMENSION, 3))] for name in ("query", "document")}
    modules = [word_embeddings(), Pooling(DIMENSION), Router(heads)]
    return SentenceTransformer(modules=modules, device="cpu")


@pytest.mark.parametrize("make", [model_of, headed])
def test_each_column_has_the_route_of_its_task(make: Any) -> None:
    model = make()
    routes = routes_of(model, MAPPING, COLUMNS, "")
    assert {column: route.task for column, route in routes.items()} == MAPPING
    expected = model.first.sub_modules["query"][0] if make is model_of else model.first
    encoder: Any = routes["question"].encoder
    assert encoder.tokenizer is expected.tokenizer


def test_without_a_router_there_is_no_route(tiny_model: Any) -> None:
    assert checked_routes(tiny_model, None, COLUMNS, "", "train_dataset") == {}
    with pytest.warns(UserWarning, match="router_mapping has no effect: the model has no Router"):
        check_router_mapping(tiny_model, MAPPING)


def test_a_router_needs_a_mapping() -> None:
    expected = (
        r"has a Router with the routes \['query', 'document'\].*"
        r"router_mapping={'question': 'query', 'answer': 'document'}"
    )
    with pytest.raises(ValueError, match=expected):
        check_router_mapping(model_of(), None)
    with pytest.raises(ValueError, match=rf"^train_dataset\['web'\]: the model {expected}"):
        checked_routes(model_of(), {"faq": MAPPING}, COLUMNS, "web", "train_dataset['web']")


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (["text", "image"], {}),
        (["a", "b"], {"route_mappings": {(None, "text"): "a", (None, "image"): "b"}}),
        (["a", "b"], {"route_mappings": {(None, None): "b"}}),
        (["only"], {}),
    ],
    ids=str,
)
def test_a_router_that_sends_all_texts_one_way_needs_no_mapping(rows: list[str], options: Any) -> None:
    model = model_of(rows, **options)
    check_router_mapping(model, None)
    routes = checked_routes(model, None, COLUMNS, "", "train_dataset")
    assert [route.task for route in routes.values()] == [None, None]


def test_a_column_that_is_left_out_takes_the_default_row() -> None:
    model = model_of(default_route="document")
    routes = checked_routes(model, {"question": "query"}, COLUMNS, "", "train_dataset")
    assert [route.task for route in routes.values()] == ["query", None]
    encoder: Any = routes["answer"].encoder
    assert encoder.tokenizer is model.first.sub_modules["document"][0].tokenizer


@pytest.mark.parametrize(
    ("mapping", "options", "message"),
    [
        ({**MAPPING, "answer": "documnt"}, {}, "'answer' in args.router_mapping: .* no row of modules for 'documnt'"),
        ({"question": "query"}, {"allow_empty_key": False}, "'answer' in args.router_mapping: A task is required"),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_without_a_row(mapping: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^train_dataset, column {message}"):
        checked_routes(model_of(**options), mapping, COLUMNS, "", "train_dataset")


@pytest.mark.parametrize(
    ("mapping", "uses"),
    [
        (MAPPING, True),
        ({"one": MAPPING, "two": {"question": "document", "answer": "document"}}, False),
    ],
    ids=str,
)
def test_whether_each_batch_reaches_all_weights(mapping: Any, uses: bool) -> None:
    datasets = {"one": COLUMNS, "two": COLUMNS}
    assert uses_all_rows(model_of(), mapping, datasets) is uses
    assert uses_all_rows(headed(), mapping, datasets) is uses
    frozen = model_of()
    frozen.first.sub_modules["query"].requires_grad_(False)
    assert uses_all_rows(frozen, mapping, datasets)
