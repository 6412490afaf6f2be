from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pytest

from ray_st.quantization import quantize_embeddings, semantic_search_faiss, semantic_search_usearch


def unit(rows: int, seed: int, dimensions: int = 20) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


CORPUS, QUERIES = unit(200, 0), unit(12, 1)
RANGES = np.stack([CORPUS.min(0), CORPUS.max(0)])
SEARCH = {"faiss": semantic_search_faiss, "usearch": semantic_search_usearch}
KINDS = [
    *(("faiss", precision) for precision in ("float32", "uint8", "ubinary")),
    *(("usearch", precision) for precision in ("float32", "int8", "ubinary", "binary")),
]
kinds = pytest.mark.parametrize(("library", "precision"), KINDS)


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if (library := getattr(request.node, "callspec", None)) and "library" in library.params:
        pytest.importorskip(library.params["library"])


def codes(precision: str, values: np.ndarray = CORPUS) -> np.ndarray:
    return quantize_embeddings(values, precision, RANGES)


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            [hit["score"] for hit in ours], [hit["score"] for hit in theirs], atol=1e-4
        )
        places = [{hit["corpus_id"]: round(hit["score"], 3) for hit in hits} for hits in (ours, theirs)]
        last = round(ours[-1]["score"], 3) if ours else 0
        assert {k for k, v in places[0].items() if abs(v - last) > 2e-3} == {
            k for k, v in places[1].items() if abs(v - last) > 2e-3
        }


OPTIONS: dict[str, dict[str, Any]] = {
    "ranges": {"ranges": RANGES},
    "calibrated": {"calibration_embeddings": CORPUS},
    "own": {},
    "coarse": {"ranges": RANGES, "rescore": False},
    "many": {"ranges": RANGES, "top_k": 150, "rescore_multiplier": 3},
    "graph": {"ranges": RANGES, "exact": False, "top_k": 3},
}


@kinds
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_as_the_peer(library: str, precision: str, options: dict[str, Any], peer: Any) -> None:
    from sentence_transformers.util import quantization as theirs

    arguments = {"corpus_embeddings": codes(precision), "corpus_precision": precision, **options}
    if precision.endswith("binary"):  # usearch's threads decide which of equal numbers of bits are found
        arguments["rescore_multiplier"] = 200
    found, seconds, index = SEARCH[library](QUERIES, output_index=True, **arguments)
    shared = {**arguments, "corpus_embeddings": None, "corpus_index": index}
    if "exact" in options:  # threads that build a graph make another one each time
        arguments = shared
    expected, _ = getattr(theirs, f"semantic_search_{library}")(QUERIES, **arguments)
    same(found, expected)
    assert seconds >= 0
    again, _ = SEARCH[library](QUERIES, **shared)
    same(again, found)


@kinds
def test_rescored_as_by_brute_force(library: str, precision: str) -> None:
    options: dict[str, Any] = {"top_k": 200, "ranges": RANGES, "rescore": precision != "float32"}
    found, _ = SEARCH[library](QUERIES, codes(precision), corpus_precision=precision, **options)
    if precision in ("int8", "uint8"):
        step = (RANGES[1] - RANGES[0]) / 255
        values = (codes(precision).astype(float) + 128 * (precision == "int8")) * step + RANGES[0]
    else:
        values = CORPUS if precision == "float32" else (CORPUS > 0).astype(float)
    scores = QUERIES.astype(float) @ values.T
    if library == "usearch" and precision == "float32":
        scores = 1 - scores
    for hits, row in zip(found, scores, strict=True):
        assert sorted(hit["corpus_id"] for hit in hits) == list(range(200))
        np.testing.assert_allclose(
            [hit["score"] for hit in hits], row[[hit["corpus_id"] for hit in hits]], atol=1e-5
        )
        order = np.diff([hit["score"] for hit in hits])
        assert (
            (order >= -1e-6).all()
            if library == "usearch" and precision == "float32"
            else (order <= 1e-6).all()
        )


@kinds
def test_queries_as_coarse_as_the_corpus(
    library: str, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    coarse, _ = SEARCH[library](
        QUERIES, codes(precision), corpus_precision=precision, ranges=RANGES, rescore=False
    )
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        found, _ = SEARCH[library](codes(precision, QUERIES), codes(precision), corpus_precision=precision)
    same(found, coarse)
    assert f"semantic_search_{library} cannot rescore" in caplog.text


@kinds
def test_one_query_and_a_small_corpus(library: str, precision: str) -> None:
    corpus = codes(precision)[:4]
    options: dict[str, Any] = {
        "corpus_precision": precision,
        "ranges": RANGES,
        "rescore": precision != "float32",
    }
    found, _ = SEARCH[library](QUERIES[0], corpus, **options)
    assert sorted(hit["corpus_id"] for hit in found[0]) == [0, 1, 2, 3]
    both, _ = SEARCH[library](QUERIES[:2], corpus, **options)
    assert [hit["corpus_id"] for hit in both[0]] == [hit["corpus_id"] for hit in found[0]]


@pytest.mark.parametrize("library", SEARCH)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give either corpus_embeddings or corpus_index; got neither"),
        ({"corpus_embeddings": CORPUS, "corpus_index": 3}, "got both"),
        ({"corpus_embeddings": CORPUS[:0]}, "the corpus is empty"),
        ({"corpus_embeddings": CORPUS, "corpus_precision": "int4"}, "must be one of float32, .*; got 'int4'"),
        ({"corpus_embeddings": CORPUS, "top_k": 0}, "top_k must be at least 1; got 0"),
        ({"corpus_embeddings": CORPUS, "rescore_multiplier": 0}, "rescore_multiplier must be at least 1"),
        ({"corpus_embeddings": CORPUS, "corpus_precision": "ubinary"}, "but corpus_embeddings are float32"),
        ({"corpus_embeddings": CORPUS[:, :9]}, "as float32 they hold 20 and 9 numbers"),
        ({"query_embeddings": QUERIES * np.nan, "corpus_embeddings": CORPUS}, "must be finite; found NaN"),
    ],
    ids=["nothing", "both", "empty", "precision", "top_k", "multiplier", "type", "dimension", "nan"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input(library: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SEARCH[library](**{"query_embeddings": QUERIES, **options})


@pytest.mark.parametrize("library", SEARCH)
def test_an_index_of_another_precision(library: str) -> None:
    *_, index = SEARCH[library](QUERIES, CORPUS, rescore=False, output_index=True)
    with pytest.raises(ValueError, match="corpus_precision is 'ubinary', but corpus_index"):
        SEARCH[library](QUERIES, corpus_index=index, corpus_precision="ubinary")


@pytest.mark.parametrize(("library", "module"), [("faiss", "faiss"), ("usearch", "usearch.index")])
def test_a_library_that_is_missing(library: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {library}, .*pip install 'ray-st\[{library}\]'"):
        SEARCH[library](QUERIES, CORPUS)
