"""``ray-st score`` and ``ray-st mine``: what they write, and what they refuse."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from ray_st.cli import main
from ray_st.util import mine_hard_negatives

WORDS = ["the", "man", "eats", "pasta", "good", "bad", "weather", "sunny"]
TEXTS = [f"{one} {two}" for one in WORDS for two in WORDS if one < two]


@pytest.fixture(scope="module")
def reranker_folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ray_st.models.reranker.cross_encoder import CrossEncoder

    logging.disable(logging.WARNING)  # it says that the head is new
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CrossEncoder(tiny_encoder, num_labels=1, max_length=32, device="cpu")
    logging.disable(logging.NOTSET)
    folder = tmp_path_factory.mktemp("reranker") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def reranker(reranker_folder: Path) -> Any:
    from ray_st.models.reranker.cross_encoder import CrossEncoder

    return CrossEncoder(reranker_folder, device="cpu")


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    monkeypatch.chdir(tmp_path)
    table = pa.table({"query": TEXTS[:9], "positive": TEXTS[9:18], "negative": TEXTS[18:27]})
    pq.write_table(table, "rows.parquet")
    return table


def test_score_writes_what_the_model_gives(
    reranker_folder: Path, reranker: Any, rows: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(reranker_folder), "rows.parquet"]
    options = ["--device", "cpu", "--columns", "query", "positive"]
    assert main([*command, "out/scored.parquet", *options]) == 0
    assert capsys.readouterr().out == "9 rows scored: out/scored.parquet\n"
    found = pq.read_table("out/scored.parquet")
    pairs = list(zip(rows["query"].to_pylist(), rows["positive"].to_pylist(), strict=True))
    assert found.column_names == [*rows.column_names, "score"]
    assert found["score"].to_pylist() == pytest.approx(reranker.predict(pairs).tolist(), abs=1e-6)


def test_score_writes_margins_of_logits(reranker_folder: Path, reranker: Any, rows: pa.Table) -> None:
    command = ["score", str(reranker_folder), "rows.parquet", "scored.parquet", "--margins", "--logits"]
    assert main([*command, "--device", "cpu", "--max-length", "16"]) == 0
    found = pq.read_table("scored.parquet")
    sides = [
        reranker.predict(
            list(zip(rows["query"].to_pylist(), rows[name].to_pylist(), strict=True)),
            activation_fn=torch.nn.Identity(),
        )
        for name in ("positive", "negative")
    ]
    assert found["label"].to_pylist() == pytest.approx((sides[0] - sides[1]).tolist(), abs=1e-6)


@pytest.mark.ray
def test_score_into_a_folder_and_again(
    reranker_folder: Path,
    reranker: Any,
    cluster: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    command = ["score", str(reranker_folder), str(tmp_path / "rows.parquet"), str(output), "--workers", "1"]
    assert main([*command, "--part-rows", "4"]) == 0
    assert capsys.readouterr().out.endswith(f"9 rows scored: {output}\n")
    assert main([*command, "--part-rows", "4"]) == 0
    assert capsys.readouterr().out.endswith(f"9 rows scored: {output} (9 were there already)\n")
    for row in pq.read_table(output).to_pylist():
        pairs = [(row["query"], row["positive"]), (row["query"], row["negative"])]
        assert row["scores"] == pytest.approx(reranker.predict(pairs).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.parquet", "o.parquet", "--columns", "query", "x"], "rows.parquet: no column 'x' to score"),
        (["rows.parquet", "o.parquet", "--workers", "2"], "--workers: not for a .parquet file as OUTPUT"),
        (["rows.parquet", "folder", "--device", "cpu"], "--device: not for a folder as OUTPUT"),
        (["rows.parquet", "o.parquet", "--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
        (["none.parquet", "o.parquet"], "none.parquet"),
    ],
)
def test_score_refuses(
    arguments: list[str], message: str, reranker_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(reranker_folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("o.parquet").exists()


def test_mine_writes_what_the_function_gives(
    tiny_folder: Path, tiny_model: Any, reranker_folder: Path, reranker: Any, rows: pa.Table
) -> None:
    Path("more.txt").write_text("\n".join(TEXTS))
    command = ["mine", str(tiny_folder), "rows.parquet", "mined.parquet", "--columns", "query", "positive"]
    options = ["--num-negatives", "2", "--output-scores", "--output-format", "labeled-list"]
    limits = ["--max-score", "0.9", "--range-max", "12", "--reranker", str(reranker_folder)]
    assert main([*command, *options, *limits, "--corpus", "more.txt", "--device", "cpu"]) == 0
    expected = mine_hard_negatives(
        Dataset(rows),
        tiny_model,
        corpus=TEXTS,
        num_negatives=2,
        output_scores=True,
        output_format="labeled-list",
        max_score=0.9,
        range_max=12,
        cross_encoder=reranker,
        verbose=False,
    )
    assert pq.read_table("mined.parquet").to_pylist() == expected.to_list()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["o.jsonl"], "OUTPUT: expected the name of a .parquet file, found o.jsonl"),
        (["o.parquet", "--corpus-column", "x"], "--corpus-column: has no effect without --corpus"),
        (["o.parquet", "--cluster", "--device", "cpu"], "--device: not with --cluster"),
        (["o.parquet", "--columns", "query", "x"], "There is no column 'x' in the dataset"),
        (["o.parquet", "--corpus", "rows.parquet"], "--corpus: no column 'text'"),
        (["o.parquet", "--num-negatives", "0"], "num_negatives must be at least 1"),
    ],
)
def test_mine_refuses(
    arguments: list[str], message: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mine", str(tiny_folder), "rows.parquet", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("o.parquet").exists()


@pytest.mark.ray
def test_mine_on_the_cluster(tiny_folder: Path, cluster: None) -> None:
    command = ["mine", str(tiny_folder), "rows.parquet"]
    assert main([*command, "here.parquet", "--device", "cpu"]) == 0
    assert main([*command, "there.parquet", "--cluster"]) == 0
    assert pq.read_table("there.parquet").equals(pq.read_table("here.parquet"))
