from __future__ import annotations

import logging
import zlib
from collections import Counter
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from ray_st.similarity_functions import SimilarityFunction
from ray_st.util import mine_hard_negatives

FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]


class Vectors:
    """Stands for a model: random vectors that are functions of the text with its prompt, 12 dimensions."""

    device = torch.device("cpu")
    prompts: ClassVar = {"query": "q: "}
    model_card_data = SimpleNamespace(base_model="vectors")

    def __init__(self, similarity: str = "cosine", spoilt: str | None = None) -> None:
        self.similarity_fn_name = similarity
        self.similarity = SimilarityFunction.to_similarity_fn(similarity)
        self.similarity_pairwise = SimilarityFunction.to_similarity_pairwise_fn(similarity)
        self.spoilt, self.encoded = spoilt, 0

    def encode_document(self, texts: list[str], prompt: Any = None, prompt_name: Any = None, **_: Any) -> Any:
        self.encoded += len(texts)
        prompt = prompt or self.prompts.get(prompt_name, "")
        seeds = [zlib.crc32((prompt + text).encode()) for text in texts]
        rows = np.stack([np.random.default_rng(seed).normal(size=12) for seed in seeds]).astype(np.float32)
        rows[[text == self.spoilt for text in texts]] = np.nan
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_query = encode_document

    def get_embedding_dimension(self) -> int:
        return 12


class Cross:
    """Stands for a cross-encoder: scores that are functions of the two texts."""

    def predict(self, pairs: Any, convert_to_tensor: bool = False, **_: Any) -> Any:
        seeds = [zlib.crc32(repr(tuple(pair)).encode()) for pair in pairs]
        scores = torch.tensor([np.random.default_rng(seed).normal() for seed in seeds]).float()
        return scores if convert_to_tensor else scores.numpy()


def pairs(queries: int = 40, documents: int = 30) -> Dataset:
    """Repeated queries, repeated positives and a repeated pair."""
    draws = np.random.default_rng(1)
    rows = [(f"question {q}", f"answer {draws.integers(documents)}") for q in range(queries)]
    rows += [(f"question {q}", f"answer {draws.integers(documents)}") for q in range(0, queries, 3)]
    rows.append(rows[0])
    return Dataset.from_dict(
        {
            "anchor": [row[0] for row in rows],
            "positive": [row[1] for row in rows],
            "id": list(range(len(rows))),
        }
    )


def close(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def same(
    options: dict[str, Any], model: Any = None, data: Dataset | None = None, theirs: Any = None
) -> Dataset:
    """Mines with ours and the peer and compares the rows; tells ours."""
    from sentence_transformers.util import mine_hard_negatives as peers

    model, data = model or Vectors(), pairs() if data is None else data
    found = mine_hard_negatives(data, model, verbose=False, **options)
    expected = peers(data, theirs or model, verbose=False, **options)
    assert found.column_names == expected.column_names
    assert len(found) == len(expected)
    if len(found):
        assert found.features == expected.features
    for name in found.column_names:
        assert close(list(found[name]), list(expected[name])), name
    return found


LIMITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "range": {"range_min": 4, "range_max": 12},
    "max": {"max_score": 0.4},
    "min": {"min_score": 0.45},
    "absolute": {"absolute_margin": 0.1},
    "relative": {"relative_margin": 0.05},
    "corpus": {"corpus": [f"other {i}" for i in range(25)] + ["answer 3", "other 2"]},
    "few documents": {"range_max": 100},
    "all": {
        "range_min": 1,
        "range_max": 20,
        "max_score": 0.9,
        "min_score": -0.6,
        "absolute_margin": -0.2,
        "relative_margin": -0.3,
        "num_negatives": 5,
    },
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("output_scores", [False, True], ids=["labels", "scores"])
def test_rows_as_the_peers(
    output_format: str, limits: dict[str, Any], output_scores: bool, peer: Any
) -> None:
    found = same({**limits, "output_format": output_format, "output_scores": output_scores})
    assert len(found)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_score": 0.5},
        {"min_score": 0.5},
        {"absolute_margin": 0.1, "num_negatives": 2},
        {"relative_margin": 0.1},
    ],
)
def test_rescored_as_the_peers(output_format: str, limits: dict[str, Any], peer: Any) -> None:
    same({**limits, "cross_encoder": Cross(), "output_format": output_format, "output_scores": True})


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_other_similarities_as_the_peers(similarity: str, peer: Any) -> None:
    same({"output_scores": True, "absolute_margin": 0.01}, Vectors(similarity))


class TestQueriesAmongTheDocuments:
    """As in pairs of paraphrases, where a query's nearest document is the query."""

    TEXTS = tuple(f"text {number}" for number in range(30))

    def data(self) -> Dataset:
        """Each text with the next; so each query is the positive of another."""
        return Dataset.from_dict({"a": self.TEXTS[:-1], "b": self.TEXTS[1:]})

    @pytest.mark.parametrize(
        "limits", [{}, {"corpus": ["text 0", "other"]}, {"range_min": 2}, {"max_score": 2.0}]
    )
    @pytest.mark.parametrize("output_format", ["triplet", "n-tuple"])
    def test_are_no_negatives_of_their_own(self, limits: dict[str, Any], output_format: str) -> None:
        options = {"num_negatives": 5, "output_format": output_format, "verbose": False, **limits}
        found = mine_hard_negatives(self.data(), Vectors(), **options)
        assert len(found) == 29 * (5 if output_format == "triplet" else 1)
        for row in found:
            negatives = [text for name, text in row.items() if name.startswith("negative")]
            assert row["a"] not in negatives
            assert row["b"] not in negatives

    def test_are_left_out_before_ranks_are_counted(self) -> None:
        """The rest are those of a search that finds everything, in its order."""
        wide = mine_hard_negatives(self.data(), Vectors(), num_negatives=27, verbose=False)
        few = mine_hard_negatives(self.data(), Vectors(), num_negatives=3, range_min=4, verbose=False)
        ranks: dict[str, list[str]] = {}
        for row in wide:
            ranks.setdefault(row["a"], []).append(row["negative"])
        for place, row in enumerate(few):
            assert row["negative"] == ranks[row["a"]][4 + place % 3]

    def test_stay_where_they_are_positives_that_are_asked_for(self) -> None:
        data = Dataset.from_dict({"a": ["x", "y"], "b": ["x", "z"]})
        options: dict[str, Any] = {"include_positives": True, "num_negatives": 2, "verbose": False}
        rows = mine_hard_negatives(data, Vectors(), corpus=["x", "y", "z", "w"], **options).to_list()
        assert rows[0]["negative_1"] == "x"
        assert "y" not in rows[1].values() or rows[1]["a"] == "y"
        assert "y" not in (rows[1]["negative_1"], rows[1]["negative_2"])


def test_with_positives_as_the_peers(peer: Any) -> None:
    found = same({"include_positives": True, "num_negatives": 6, "output_scores": True})
    negatives = [{row[f"negative_{i}"] for i in range(1, 7)} for row in found]
    assert any(row["positive"] in texts for row, texts in zip(found, negatives, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"query_prompt": "ask: "},
        {"query_prompt_name": "query"},
        {"corpus_prompt": "tell: "},
        {"query_prompt": "ask: ", "query_prompt_name": "query", "corpus_prompt_name": "query"},
        {"anchor_column_name": "positive", "positive_column_name": "anchor"},
    ],
    ids=["query", "name", "corpus", "both", "columns"],
)
def test_prompts_and_columns_as_the_peers(options: dict[str, Any], peer: Any) -> None:
    assert same(options)["negative"] != mine_hard_negatives(pairs(), Vectors(), verbose=False)["negative"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"as_triplets": True}, {"output_format": "triplet"}),
        ({"as_triplets": False}, {"output_format": "n-tuple"}),
        ({"margin": 0.1}, {"absolute_margin": 0.1}),
        ({"output_format": "n-tuple-scores"}, {"output_format": "n-tuple", "output_scores": True}),
    ],
    ids=["triplets", "tuples", "margin", "scores"],
)
def test_old_names(old: dict[str, Any], new: dict[str, Any], peer: Any, caplog: Any) -> None:
    expected = mine_hard_negatives(pairs(), Vectors(), verbose=False, **new)
    caplog.clear()
    found = same(old)
    assert found.to_dict() == expected.to_dict()
    assert any("old" in record.message and record.name.startswith("ray_st") for record in caplog.records)


def test_a_real_model_as_the_peers(tiny_model: Any, tiny_folder: Any, peer: Any) -> None:
    words = ["the", "man", "eats", "pasta", "good", "bad", "weather", "sunny", "document", "text", "query"]
    texts = [f"{one} {two}" for one in words for two in words if one < two]
    data = Dataset.from_dict({"a": texts[:30], "b": texts[25:55]})
    theirs = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    same({"relative_margin": 0.001, "output_scores": True}, tiny_model, data, theirs)


def test_faiss_as_the_peers(peer: Any) -> None:
    pytest.importorskip("faiss")
    found = same({"use_faiss": True, "faiss_batch_size": 7, "output_scores": True, "relative_margin": 0.1})
    assert found["negative"] == same({"output_scores": True, "relative_margin": 0.1})["negative"]


@pytest.mark.slow
def test_random_choice_is_even_among_what_is_allowed() -> None:
    data = Dataset.from_dict({"q": ["question"], "a": ["right"]})
    corpus = [f"wrong {i}" for i in range(9)]
    options: dict[str, Any] = {"corpus": corpus, "sampling_strategy": "random", "verbose": False}
    options |= {"num_negatives": 2, "range_min": 1, "range_max": 7}
    ranked = mine_hard_negatives(data, Vectors(), corpus=corpus, num_negatives=7, verbose=False)["negative"][
        :
    ]
    counts: Counter[tuple[str, ...]] = Counter()
    for seed in range(600):
        found = mine_hard_negatives(data, Vectors(), **options, seed=seed)["negative"][:]
        assert sorted(found, key=ranked.index) == found
        counts[tuple(found)] += 1
    assert {text for couple in counts for text in couple} == set(ranked[1:7])
    assert len(counts) == 15
    assert sum((count - 40) ** 2 / 40 for count in counts.values()) < 36.1  # chi-square, 14 degrees, 0.1 %


def test_random_choice_repeats_with_its_seed() -> None:
    options: dict[str, Any] = {"sampling_strategy": "random", "range_max": 15, "verbose": False}
    one, two, other = (mine_hard_negatives(pairs(), Vectors(), seed=seed, **options) for seed in (5, 5, 6))
    assert one.to_dict() == two.to_dict() != other.to_dict()


def test_random_choice_falls_back_to_fewer() -> None:
    options: dict[str, Any] = {"max_score": 0.2, "range_max": 28, "verbose": False, "num_negatives": 26}
    top = mine_hard_negatives(pairs(), Vectors(), **options)
    assert (
        mine_hard_negatives(pairs(), Vectors(), sampling_strategy="random", **options).to_dict()
        == top.to_dict()
    )


def test_embeddings_are_kept(tmp_path: Any) -> None:
    options: dict[str, Any] = {"cache_folder": str(tmp_path / "kept"), "verbose": False}
    first, model = mine_hard_negatives(pairs(), Vectors(), **options), Vectors()
    again = mine_hard_negatives(pairs(), model, **options)
    assert again.to_dict() == first.to_dict()
    assert model.encoded == 0
    names = sorted(file.name[:6] for file in (tmp_path / "kept").iterdir())
    assert names == ["corpus", "query_"]
    mine_hard_negatives(pairs(), model, query_prompt="ask: ", **options)
    assert model.encoded == 40  # the queries alone


def test_other_weights_are_other_embeddings(tmp_path: Any, tiny_model: Any) -> None:
    options: dict[str, Any] = {"cache_folder": str(tmp_path), "verbose": False}
    mine_hard_negatives(pairs(), tiny_model, **options)
    mine_hard_negatives(pairs(), tiny_model, **options)
    assert len(list(tmp_path.iterdir())) == 2
    with torch.no_grad():
        next(iter(tiny_model.parameters())).add_(1.0)
    mine_hard_negatives(pairs(), tiny_model, **options)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_spoilt_file_is_refused(tmp_path: Any) -> None:
    options: dict[str, Any] = {"cache_folder": str(tmp_path), "verbose": False}
    mine_hard_negatives(pairs(), Vectors(), **options)
    for file in tmp_path.iterdir():
        np.save(file, np.zeros((2, 12), dtype=np.float32))
    with pytest.raises(ValueError, match=r"npy holds an array \(2, 12\) instead of 40 embeddings; delete it"):
        mine_hard_negatives(pairs(), Vectors(), **options)


def test_several_processes_embed_and_are_stopped() -> None:
    model, said = Vectors(), []
    model.start_multi_process_pool = lambda target_devices: said.append(target_devices) or "pool"  # type: ignore[attr-defined]
    model.stop_multi_process_pool = said.append  # type: ignore[attr-defined]
    mine_hard_negatives(pairs(), model, use_multi_process=["cpu", "cpu"], verbose=False)
    mine_hard_negatives(pairs(), model, use_multi_process=True, verbose=False)
    assert said == [["cpu", "cpu"], "pool", None, "pool"]


def test_any_function_can_score_pairs() -> None:
    options: dict[str, Any] = {"min_score": 0.1, "verbose": False, "output_scores": True}
    found = mine_hard_negatives(
        pairs(), Vectors(), cross_encoder=lambda rows: Cross().predict(rows), **options
    )
    assert (
        found.to_dict() == mine_hard_negatives(pairs(), Vectors(), cross_encoder=Cross(), **options).to_dict()
    )


def test_the_report(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    mine_hard_negatives(pairs(), Vectors(), max_score=0.4, num_negatives=25)
    text = capsys.readouterr().out
    assert "55 rows: 54 pairs of 40 queries, 25 documents" in text
    assert "Metric       Positive       Negative     Difference" in text
    assert "max_score=0.4 removed" in text
    assert "Mining found too few negatives for" in caplog.text
    assert "or other values of range_max, max_score" in caplog.text


def test_silence(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    mine_hard_negatives(pairs(), Vectors(), verbose=False)
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""


@pytest.mark.parametrize("output_format", FORMATS)
def test_nothing_to_find(output_format: str, caplog: pytest.LogCaptureFixture) -> None:
    data = Dataset.from_dict({"q": ["one", "two"], "a": ["same", "same"]})
    with caplog.at_level(logging.WARNING):
        found = mine_hard_negatives(data, Vectors(), output_format=output_format, max_score=1.0)
    assert len(found) == (2 if output_format == "labeled-pair" else 0)
    assert "Mining found too few negatives" in caplog.text
    assert found.features["q"].dtype == "string"


BAD: dict[str, tuple[dict[str, list[Any]], dict[str, Any], str]] = {
    "no rows": ({"q": [], "a": []}, {}, "is empty; it needs at least one pair"),
    "one column": ({"q": ["x"]}, {}, r"one of positives; found columns \['q'\]"),
    "column": ({"q": ["x"], "answer": ["y"]}, {"positive_column_name": "answr"}, "did you mean 'answer'"),
    "same": ({"q": ["x"], "a": ["y"]}, {"positive_column_name": "q"}, "both taken from column 'q'"),
    "none": ({"q": ["x", "z"], "a": ["y", None]}, {}, "Each row of column 'a'.*1 of 2 do not.*row 1: None"),
    "empty": ({"q": ["", " ", "z"], "a": ["y"] * 3}, {}, "Each row of column 'q'.*2 of 3 do not.*row 0: ''"),
    "numbers": ({"q": ["x"], "a": [3]}, {}, "row 0: 3"),
    "corpus": ({"q": ["x"], "a": ["y"]}, {"corpus": ["z", None]}, "entry of the corpus.*entry 1: None"),
    "corpus of letters": ({"q": ["x"], "a": ["y"]}, {"corpus": "text"}, "must be a list of texts; it is one"),
    "format": ({"q": ["x"], "a": ["y"]}, {"output_format": "triplets"}, "did you mean 'triplet'"),
    "count": ({"q": ["x"], "a": ["y"]}, {"num_negatives": 0}, "num_negatives must be at least 1; got 0"),
    "minimum": ({"q": ["x"], "a": ["y"]}, {"range_min": -1}, "range_min must be at least 0; got -1"),
    "range": (
        {"q": ["x"], "a": ["y"]},
        {"range_min": 3, "range_max": 5},
        "leave fewer candidates than num_neg",
    ),
    "strategy": ({"q": ["x"], "a": ["y"]}, {"sampling_strategy": "best"}, "one of top, random; got 'best'"),
    "scores": (
        {"q": ["x"], "a": ["y"]},
        {"min_score": 1.0, "max_score": 0.5},
        "min_score=1.0 is above max_sc",
    ),
    "limit": (
        {"q": ["x"], "a": ["y"]},
        {"absolute_margin": float("nan")},
        "absolute_margin must be a number",
    ),
    "block": (
        {"q": ["x"], "a": ["y"]},
        {"faiss_batch_size": 0},
        "faiss_batch_size must be at least 1; got 0",
    ),
    "cross": ({"q": ["x"], "a": ["y"]}, {"cross_encoder": 3, "max_score": 1.0}, "must have predict.*got int"),
    "cross nan": (
        {"q": ["x"], "a": ["y"]},
        {"cross_encoder": lambda rows: np.full(len(rows), np.nan), "max_score": 1.0},
        r"score of \('x', 'y'\) is nan",
    ),
    "cross shape": (
        {"q": ["x"], "a": ["y"]},
        {"cross_encoder": lambda rows: np.zeros((len(rows), 2)), "max_score": 1.0},
        r"one score a pair; got \(1, 2\) for 1",
    ),
    "search": (
        {"q": ["x"], "a": ["y"]},
        {"search": print, "use_faiss": True, "cache_folder": "x"},
        "cache_folder, use_faiss and search exclude each other",
    ),
}


@pytest.mark.parametrize(("columns", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input(columns: dict[str, list[Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(Dataset.from_dict(columns), Vectors(), verbose=False, **options)


def test_what_is_no_dataset() -> None:
    with pytest.raises(ValueError, match=r"needs a datasets.Dataset; got DatasetDict. Take one split"):
        mine_hard_negatives(DatasetDict(train=pairs()), Vectors())  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["question 3", "answer 4"])
def test_embeddings_that_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=f"of 1 of .* are not finite; the first is that of '{text}'"):
        mine_hard_negatives(pairs(), Vectors(spoilt=text), verbose=False)


def test_faiss_with_a_distance() -> None:
    with pytest.raises(ValueError, match=r"compares them by 'euclidean'\. Use use_faiss=False"):
        mine_hard_negatives(pairs(), Vectors("euclidean"), use_faiss=True, verbose=False)


def test_faiss_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(
        ImportError, match=r"needs faiss, which is not installed: pip install 'ray-st\[faiss\]'"
    ):
        mine_hard_negatives(pairs(), Vectors(), use_faiss=True, verbose=False)
