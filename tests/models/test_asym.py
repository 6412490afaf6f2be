from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from module_helpers import DIMENSION, TEXTS, stirred, word_embeddings
from ray_st import SentenceTransformer
from ray_st.models import Asym, Dense, Normalize, Pooling, Router
from ray_st.models.folder_files import ModelFolderError, read_json, write_json


def rows(shared: bool = True) -> dict[str, list[Any]]:
    """Two rows that begin with the same words and end in maps of their own."""
    words, pooling = word_embeddings(), Pooling(DIMENSION)
    return {
        "query": [words, pooling, stirred(Dense(DIMENSION, 3))],
        "document": [words if shared else word_embeddings(), pooling, Dense(DIMENSION, 3)],
    }


def model_of(**options: Any) -> SentenceTransformer:
    return SentenceTransformer(modules=[Asym(rows(), **options), Normalize()], device="cpu")


def embed(model: Any, texts: list[Any] = TEXTS, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(model.tokenize(texts, **options))["sentence_embedding"]


def by_hand(model: SentenceTransformer, row: str) -> torch.Tensor:
    return embed(SentenceTransformer(modules=[*model[0].sub_modules[row], Normalize()], device="cpu"))


@pytest.mark.parametrize("task", ["query", "document"])
def test_each_task_has_its_row(task: str) -> None:
    model = model_of()
    torch.testing.assert_close(embed(model, task=task), by_hand(model, task))
    torch.testing.assert_close(embed(model, [{task: text} for text in TEXTS]), by_hand(model, task))
    assert model.get_embedding_dimension() == 3
    assert model.get_model_kwargs() == ["modality", "task"]


def test_without_a_task_the_default() -> None:
    model = model_of(default_route="document")
    torch.testing.assert_close(embed(model), by_hand(model, "document"))
    model = model_of()
    torch.testing.assert_close(embed(model), by_hand(model, "query"))
    model = SentenceTransformer(modules=[Router.for_query_document(*rows().values()), Normalize()])
    torch.testing.assert_close(embed(model), by_hand(model, "document"))


def test_after_other_modules() -> None:
    pooled = [word_embeddings(), Pooling(DIMENSION)]
    heads = {name: row[2:] for name, row in rows().items()}
    model = SentenceTransformer(modules=[*pooled, Asym(heads)], device="cpu")
    features = model.tokenize(TEXTS)
    found = {name: model(features, task=name)["sentence_embedding"] for name in heads}
    assert not torch.allclose(found["query"], found["document"])
    torch.testing.assert_close(model(features)["sentence_embedding"], found["query"])


@pytest.mark.parametrize(
    ("task", "modality", "row"),
    [
        ("query", "text", "a"),
        ("query", "image", "b"),
        ("other", "image", "c"),
        (None, "image", "c"),
        ("d", "text", "d"),
        (None, "text", "text"),
        ("e", "text", "text"),
        (None, None, "a"),
    ],
)
def test_which_row_it_is(task: str | None, modality: str | None, row: str) -> None:
    mappings = {("query", "text"): "a", ("query", None): "b", (None, "image"): "c"}
    router = Asym({name: [Normalize()] for name in ("a", "b", "c", "d", "text")}, route_mappings=mappings)
    assert router.route(task, modality) == row


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([{"question": "sunny"}], {}, "no row of modules for 'question'; there are query, document"),
        ([{"query": "a"}, {"document": "b"}], {}, r"same task; found the tasks \['document', 'query'\]"),
        ([{"query": "a", "document": "b"}], {}, "must all be {task: text}"),
        ([{"query": "a"}, "b"], {}, "must all be {task: text}"),
        (["a"], {"task": "question"}, "no row of modules for 'question'"),
        ([{"query": "a"}], {"task": "document"}, "are of task 'query', and the call is for 'document'"),
        (["a", 3], {}, "entry 1 is int"),
    ],
    ids=str,
)
def test_inputs_of_no_row(texts: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of().tokenize(texts, **options)


def test_without_a_default_a_task_must_be_named() -> None:
    model = model_of(allow_empty_key=False)
    with pytest.raises(ValueError, match="A task is required, one of query, document: there is no default"):
        model.tokenize(["sunny"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sub_modules": {}}, "needs rows of modules by name"),
        ({"sub_modules": {"query": []}}, "needs rows of modules by name"),
        ({"default_route": "other"}, "no row of modules for 'other'; there are query, document"),
        ({"route_mappings": {("query", None): "other"}}, "no row of modules for 'other'"),
    ],
    ids=str,
)
def test_what_makes_no_asym(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Asym(**{"sub_modules": rows(), **arguments})


def test_rows_of_different_dimensions() -> None:
    model = SentenceTransformer(modules=[Asym({"a": [Pooling(2)], "b": [Pooling(3)]})])
    with pytest.raises(ValueError, match=r"different dimensions: {'a': 2, 'b': 3}"):
        model.get_embedding_dimension()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"default_route": "document"},
    {"allow_empty_key": False, "route_mappings": {("query", "text"): "query", (None, "text"): "document"}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_to_the_peer_and_back(options: dict[str, Any], peer: Any, tmp_path: Path) -> None:
    mine = model_of(**options)
    mine.save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
        theirs.save(str(tmp_path / "theirs"))
    back = SentenceTransformer(tmp_path / "theirs", device="cpu")
    for task in ("query", "document"):
        expected = theirs.encode(TEXTS, task=task)
        for model in (mine, back):
            np.testing.assert_allclose(embed(model, task=task), expected, atol=1e-5)
    if options != OPTIONS[2]:  # the peer needs a task there
        np.testing.assert_allclose(embed(back), theirs.encode(TEXTS), atol=1e-5)
    assert back[0].route_mappings == mine[0].route_mappings


def test_a_module_of_two_rows_is_written_once_and_stays_one(tmp_path: Path) -> None:
    model_of().save(tmp_path)
    names = {path.name for path in (tmp_path / "0_Asym").iterdir()}
    assert names == {
        "config.json",
        "query_0_WordEmbeddings",
        "query_1_Pooling",
        "query_2_Dense",
        "document_2_Dense",
    }
    back = SentenceTransformer(tmp_path)[0].sub_modules
    assert back["query"][0] is back["document"][0]
    assert back["query"][2] is not back["document"][2]


def test_length_and_tokenizer_of_the_rows() -> None:
    model = SentenceTransformer(modules=[Asym(rows(shared=False))], device="cpu")
    assert model.tokenizer is model[0].sub_modules["query"][0].tokenizer
    model.max_seq_length = 7
    assert model.max_seq_length == model[0].sub_modules["document"][0].max_seq_length == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": {"query_0_WordEmbeddings": "os.system"}}, r"os\.system, which is code from outside"),
        ({"types": {"../x": "sentence_transformers.models.Pooling"}}, "leads out of the model folder"),
        ({"types": {"x": "sentence_transformers.models.Nothing"}}, r"models\.Nothing; known are"),
        ({"structure": {"query": ["other"]}}, "the module 'other' is in the structure, not in types"),
        ({"structure": None}, "must describe the rows of modules"),
        (
            {"parameters": {"default_route": "other"}},
            "is not a valid Asym: There is no row of modules for 'other'",
        ),
        ({"parameters": {"route_mappings": {"open('x')": "query"}}}, "is not a valid Asym"),
    ],
    ids=str,
)
def test_folders_that_are_wrong(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model_of().save(tmp_path)
    path = tmp_path / "0_Asym" / "config.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(ModelFolderError, match=message):
        SentenceTransformer(tmp_path)


def test_encode_chooses_the_row(peer: Any, tmp_path: Path) -> None:
    model = model_of()
    model.save(tmp_path)
    theirs = peer.SentenceTransformer(str(tmp_path), device="cpu")
    for task, name in (("query", "encode_query"), ("document", "encode_document")):
        expected = theirs.encode(TEXTS, task=task)
        found = [
            model.encode(TEXTS, task=task, batch_size=2),
            getattr(model, name)(TEXTS),
            model.encode([{task: text} for text in TEXTS]),
        ]
        for embeddings in found:
            np.testing.assert_allclose(embeddings, expected, atol=1e-5)
        np.testing.assert_allclose(model.encode({task: TEXTS[0]}), expected[0], atol=1e-5)
    prompted = [model.encode([value], prompt="good ") for value in (TEXTS[0], {"query": TEXTS[0]})]
    np.testing.assert_array_equal(*prompted)
    assert not np.allclose(prompted[0][0], model.encode(TEXTS[0]))
