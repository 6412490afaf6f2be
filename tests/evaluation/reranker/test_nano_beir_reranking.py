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

from peer_figures import assert_same_files, close, plain
from ray_st.evaluation.reranker import CrossEncoderNanoBEIREvaluator
from ray_st.testing import EvaluatorCase, EvaluatorConformance

MSMARCO, NQ = "NanoMSMARCO", "NanoNQ"


def tables(name: str) -> dict[str, list[dict[str, Any]]]:
    corpus = [{"_id": f"{name}{i}", "text": f"{name} document {i}" if i else ""} for i in range(20)]
    queries = [{"_id": f"q{i}", "text": f"{name} query {i}"} for i in range(6)]
    qrels = [
        {"query-id": f"q{i}", "corpus-id": f"{name}{(i * 3 + j) % 20}"}
        for i in range(6)
        for j in range(1 + i % 3)
    ]
    bm25 = [
        {"query-id": f"q{i}", "corpus-ids": [f"{name}{(i * 2 + j * 7) % 20}" for j in range(12)]}
        for i in range(6)
    ]
    return {"corpus": corpus, "queries": queries, "qrels": qrels, "bm25": bm25}


def write(root: Path, name: str, kind: str) -> None:
    (root / name).mkdir(parents=True)
    for subset, rows in tables(name).items():
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), root / name / f"{subset}.parquet")
        else:
            (root / name / f"{subset}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dataset in Parquet, one in JSON Lines, and one of another name."""
    root = tmp_path_factory.mktemp("data")
    for name, kind in ((MSMARCO, "parquet"), (NQ, "jsonl"), ("my_own", "jsonl")):
        write(root, name, kind)
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


class TestConformance(EvaluatorConformance):
    @pytest.fixture
    def case(self, folder: Path) -> EvaluatorCase:
        return EvaluatorCase(lambda: CrossEncoderNanoBEIREvaluator(folder=folder, rerank_k=9))

    def test_reports_to_the_model_card(self, evaluator: Any, model: Any) -> None:
        found = evaluator(model, None, 2, 7)
        *parts, (kind, metrics, epoch, step) = model.model_card_data.reports
        assert [report[0] for report in parts] == ["CrossEncoderRerankingEvaluator"] * 3
        assert (kind, epoch, step) == ("CrossEncoderNanoBEIREvaluator", 2, 7)
        assert list(metrics) == [f"NanoBEIR_R9_mean_{name}" for name in ("map", "mrr@10", "ndcg@10")]
        for name, text in metrics.items():
            gain = found[name] - found[name.replace("mean_", "mean_base_")]
            assert text == f"{found[name]:.4f} ({gain:+.4f})"


OPTIONS = [
    {},
    {"rerank_k": 4, "at_k": 3, "always_rerank_positives": False},
    {"aggregate_fn": max, "aggregate_key": "max", "prompt_name": "query"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_metrics_names_files_and_card_are_the_peers(
    options: Any, make_model: Any, peers: Any, hub: Any, tmp_path: Path
) -> None:
    kinds = (CrossEncoderNanoBEIREvaluator, peers.CrossEncoderNanoBEIREvaluator)
    ours, theirs = (kind(["msmarco", "NQ"], **options) for kind in kinds)
    mine, other = make_model(), make_model()
    for epoch in (0, 1):
        found = ours(mine, str(tmp_path / "ours"), epoch, 7)
        assert found == close(theirs(other, str(tmp_path / "theirs"), epoch, 7))
        assert ours.primary_metric == theirs.primary_metric
    assert mine.model_card_data.reports == other.model_card_data.reports
    assert ours.name == theirs.name
    assert ours.description == theirs.description
    assert ours.get_config_dict() == theirs.get_config_dict()
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")


def test_takes_the_peers_arguments_in_order_and_a_folder(peers: Any) -> None:
    kinds = (CrossEncoderNanoBEIREvaluator, peers.CrossEncoderNanoBEIREvaluator)
    ours, theirs = (list(inspect.signature(kind).parameters.values()) for kind in kinds)
    assert [(p.name, plain(p.default)) for p in ours] == [
        *((p.name, plain(p.default)) for p in theirs),
        ("folder", None),
    ]


def test_all_but_arguments_are_fetched_from_the_hub_by_default(hub: Any, peers: Any) -> None:
    CrossEncoderNanoBEIREvaluator(dataset_id="some/NanoBEIR-xy")
    mine = list(hub)
    hub.clear()
    peers.CrossEncoderNanoBEIREvaluator(dataset_id="some/NanoBEIR-xy")
    assert sorted(mine) == sorted(hub)
    assert len({split for *_, split in mine}) == 11


def test_a_folder_gives_the_metrics_of_the_hub(folder: Path, hub: Any, model: Any) -> None:
    names = ["msmarco", "nq"]
    expected = CrossEncoderNanoBEIREvaluator(names)(model)
    hub.clear()
    assert CrossEncoderNanoBEIREvaluator(names, folder=folder)(model) == expected
    assert hub == []


def test_all_of_a_folder(folder: Path, model: Any) -> None:
    write(folder, "NanoArguAna", "jsonl")
    evaluator = CrossEncoderNanoBEIREvaluator(folder=folder)
    found = evaluator(model)
    assert evaluator.dataset_names == ["NanoArguAna", MSMARCO, NQ, "my_own"]
    parts = [found[f"{name}_R100_ndcg@10"] for name in evaluator.dataset_names]
    assert found["NanoBEIR_R100_mean_ndcg@10"] == pytest.approx(sum(parts) / 4)
    assert str(folder) not in str(evaluator.get_config_dict())


def test_relevant_documents_are_in_the_same_order_in_every_process(folder: Path) -> None:
    (evaluator,) = CrossEncoderNanoBEIREvaluator(["nq"], folder=folder).evaluators
    assert [sample["positive"] for sample in evaluator.samples[3:]] == [
        [f"NanoNQ document {i}" for i in some] for some in ([9], [12, 13], [15, 16, 17])
    ]


def rewrite(path: Path, key: str, value: Any) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1][key] = value
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("bm25", "query-id", "x", "NanoNQ: bm25 name 'x', which queries lack"),
        ("bm25", "corpus-ids", ["y"], "NanoNQ: bm25 name 'y', which corpus lack"),
        ("qrels", "corpus-id", "z", "NanoNQ: qrels name 'z', which corpus lack"),
        ("qrels", "query-id", "q0", "NanoNQ: bm25 name 'q1', which qrels lack"),
    ],
)
def test_ids_of_another_table_that_are_missing_are_named(
    folder: Path, table: str, key: str, value: Any, message: str
) -> None:
    rewrite(folder / NQ / f"{table}.jsonl", key, value)
    if message.endswith("qrels lack"):
        rows = (folder / NQ / "qrels.jsonl").read_text().splitlines()
        kept = [row for row in rows if json.loads(row)["query-id"] != "q1"]
        (folder / NQ / "qrels.jsonl").write_text("\n".join(kept))
    with pytest.raises(ValueError, match=message):
        CrossEncoderNanoBEIREvaluator(["nq"], folder=folder)


def test_a_folder_without_a_first_stage_is_refused(folder: Path) -> None:
    (folder / NQ / "bm25.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has no file for 'bm25'; expected bm25\.parquet or bm25\.jsonl"):
        CrossEncoderNanoBEIREvaluator(["nq"], folder=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_names": []}, "at least one name"),
        ({"dataset_names": ["msmarko"]}, "NanoBEIR has no dataset 'msmarko'; did you mean 'msmarco'"),
        ({"rerank_k": 0}, "rerank_k must be at least 1; got 0"),
        ({"at_k": 0}, "at_k must be at least 1; got 0"),
    ],
)
def test_bad_options_are_refused(options: Any, message: str, hub: Any) -> None:
    with pytest.raises(ValueError, match=message):
        CrossEncoderNanoBEIREvaluator(**options)
