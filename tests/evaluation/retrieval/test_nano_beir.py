"""Datasets in folders and from a stand-in for the Hub, beside the peer on the same tables."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_st.evaluation import NanoBEIREvaluator
from ray_st.evaluation.retrieval.nano_beir import TITLES
from simulated_team import together

MSMARCO, NQ = "NanoMSMARCO", "NanoNQ"


def tables(name: str) -> dict[str, list[dict[str, Any]]]:
    corpus = [{"_id": f"{name}{i}", "text": f"{name} document {i}"} for i in range(20)]
    queries = [{"_id": f"q{i}", "text": f"{name} query {i}"} for i in range(6)]
    qrels = [
        {"query-id": f"q{i}", "corpus-id": f"{name}{(i * 3 + j) % 20}"}
        for i in range(6)
        for j in range(1 + i % 3)
    ]
    empty = {"_id": "empty", "text": ""}
    return {"corpus": [*corpus, empty], "queries": [*queries, empty], "qrels": qrels}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One dataset in Parquet, in two parts, one in JSON Lines, and one of another name."""
    root = tmp_path / "data"
    for name in (MSMARCO, NQ, "my_own"):
        (root / name).mkdir(parents=True)
        for subset, rows in tables(name).items():
            stem = root / name / subset
            if name == MSMARCO:
                for part, some in enumerate((rows[:2], rows[2:])):
                    pq.write_table(pa.Table.from_pylist(some), f"{stem}-{part}.parquet")
            else:
                Path(f"{stem}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for the Hub; the list of what was asked for."""
    asked = []

    def load(dataset_id: str, subset: str, split: str) -> datasets.Dataset:
        asked.append((dataset_id, subset, split))
        return datasets.Dataset.from_list(tables(split)[subset])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


OPTIONS = [
    {},
    {"truncate_dim": 5, "aggregate_fn": max, "aggregate_key": "max", "ndcg_at_k": [2, 5]},
    {"query_prompts": "find ", "corpus_prompts": {"msmarco": "a ", "NQ": "b "}},
    {"main_score_function": "cosine", "write_predictions": True},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_metrics_names_and_files_are_the_peers(
    options: Any, model: Any, peers: Any, hub: Any, tmp_path: Path
) -> None:
    ours, theirs = (
        kind(["msmarco", "NQ"], **options) for kind in (NanoBEIREvaluator, peers.NanoBEIREvaluator)
    )
    for epoch in (0, 1):
        found = ours(model, str(tmp_path / "ours"), epoch, 7)
        assert found == pytest.approx(theirs(model, str(tmp_path / "theirs"), epoch, 7), abs=1e-6)
    assert ours.primary_metric == theirs.primary_metric
    assert ours.name == theirs.name
    assert ours.description == theirs.description
    assert ours.get_config_dict() == theirs.get_config_dict()
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    for name in (name for name in names if name.endswith(".csv")):
        mine, other = ((tmp_path / side / name).read_text().splitlines() for side in ("ours", "theirs"))
        assert mine[0] == other[0]
        for row, expected in zip(mine[1:], other[1:], strict=True):
            numbers = [float(value) for value in expected.split(",")]
            assert [float(value) for value in row.split(",")] == pytest.approx(numbers, abs=1e-6)


def test_takes_the_peers_arguments_in_order_and_a_folder(peers: Any) -> None:
    ours, theirs = (
        inspect.signature(kind).parameters.values() for kind in (NanoBEIREvaluator, peers.NanoBEIREvaluator)
    )
    *shared, folder = ours
    assert [p.name for p in shared] == [p.name for p in theirs]
    assert folder.name == "folder"
    for one, other in zip(shared, theirs, strict=True):
        assert one.default == other.default or list(one.default) == other.default


def test_all_datasets_are_fetched_from_the_hub_by_default(hub: Any, peers: Any) -> None:
    NanoBEIREvaluator(dataset_id="some/NanoBEIR-xy")
    mine = list(hub)
    hub.clear()
    peers.NanoBEIREvaluator(dataset_id="some/NanoBEIR-xy")
    assert sorted(mine) == sorted(hub)
    assert len(TITLES) == 13


def test_a_folder_gives_the_metrics_of_the_hub(folder: Path, hub: Any, model: Any) -> None:
    names = ["msmarco", "nq"]
    expected = NanoBEIREvaluator(names)(model)
    hub.clear()
    assert NanoBEIREvaluator(names, folder=folder)(model) == expected
    assert hub == []


def test_all_of_a_folder(folder: Path, model: Any) -> None:
    (folder / "notes").mkdir()
    evaluator = NanoBEIREvaluator(folder=folder)
    found = evaluator(model)
    assert evaluator.dataset_names == [MSMARCO, NQ, "my_own"]
    parts = [found[f"{name}_cosine_ndcg@10"] for name in evaluator.dataset_names]
    assert found["NanoBEIR_mean_cosine_ndcg@10"] == pytest.approx(sum(parts) / 3)
    assert str(folder) not in str(evaluator.get_config_dict())
    assert [report[0] for report in model.model_card_data.reports] == [
        *["InformationRetrievalEvaluator"] * 3,
        "NanoBEIREvaluator",
    ]


def test_one_dataset_is_in_the_card_once(folder: Path, model: Any) -> None:
    NanoBEIREvaluator(["nq"], folder=folder)(model)
    assert [report[0] for report in model.model_card_data.reports] == ["InformationRetrievalEvaluator"]


def test_empty_texts_are_left_out_and_documents_may_come_in_lists(folder: Path) -> None:
    (folder / NQ / "qrels.jsonl").write_text(
        json.dumps({"query-id": "q1", "corpus-id": ["NanoNQ1", "NanoNQ2"]})
    )
    (evaluator,) = NanoBEIREvaluator(["nq"], folder=folder).evaluators
    assert len(evaluator.corpus) == 20
    assert evaluator.relevant_docs == {"q1": {"NanoNQ1", "NanoNQ2"}}


def test_a_team_finds_the_same(folder: Path, make_model: Any) -> None:
    evaluator = NanoBEIREvaluator(folder=folder, batch_size=2)

    def task(team: Any) -> dict[str, float]:
        model = make_model()
        model.team = team
        return evaluator(model)

    assert together(2, task) == [evaluator(make_model())] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_names": []}, "at least one name"),
        ({"dataset_names": ["msmarko"]}, "NanoBEIR has no dataset 'msmarko'; did you mean 'msmarco'"),
        ({"dataset_names": ["nq"], "query_prompts": {"msmarco": "a"}}, r"query_prompts .* none for \['nq'\]"),
        ({"dataset_names": ["nq"], "folder": "nowhere"}, "nowhere is no folder"),
    ],
)
def test_bad_options_are_refused(options: Any, message: str, hub: Any) -> None:
    with pytest.raises(ValueError, match=message):
        NanoBEIREvaluator(**options)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("queries.jsonl", None, "has no file for 'queries'; expected queries.parquet or queries.jsonl"),
        ("queries.jsonl", '{"_id": 1}', r"queries.jsonl, line 1: the columns \['text'\] are missing"),
        ("queries.jsonl", "\n[1]", "line 2: expected a JSON object; found"),
        ("queries.jsonl", "{", "line 1: no JSON"),
        ("corpus.jsonl", None, "has no dataset 'nq'; known: NanoMSMARCO, my_own"),
    ],
)
def test_bad_files_are_refused(folder: Path, file: str, text: str | None, message: str) -> None:
    (folder / NQ / file).unlink()
    if text is not None:
        (folder / NQ / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        NanoBEIREvaluator(["nq"], folder=folder)


def test_a_column_missing_in_one_file_of_several_is_named(folder: Path) -> None:
    pq.write_table(pa.table({"_id": ["x"]}), folder / MSMARCO / "corpus-7.parquet")
    with pytest.raises(
        ValueError, match=r"corpus-7.parquet: the columns \['text'\] are missing; found \['_id'\]"
    ):
        NanoBEIREvaluator(["msmarco"], folder=folder)


def test_a_folder_without_datasets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no dataset: no sub-folder holds a corpus"):
        NanoBEIREvaluator(folder=tmp_path)


def test_what_the_hub_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"subset 'queries', split 'NanoNQ' of .* offline A folder"):
        NanoBEIREvaluator(["nq"])
