"""From datasets to batch sources on a local cluster; no worker is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from datasets import Dataset

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.data import segments
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.dataset_stats import describe_blocks
from ray_st.data.encoding import Encoding
from ray_st.runtime.cluster.connection import NODE_ID
from ray_st.runtime.data import ingest
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.cluster_source import build_on_cluster
from ray_st.training.data.source_builder import BuiltSource
from ray_st.training.data.specs import TRAIN

pytestmark = pytest.mark.ray

ROWS = 100
TABLE = pa.table({"a": [f"anchor {i}" for i in range(ROWS)], "b": [f"text {i}" for i in range(ROWS)]})


def parquet(folder: Path) -> Any:
    for part in range(5):
        pq.write_table(TABLE.slice(part * 20, 20), folder / f"part-{part}.parquet", row_group_size=7)
    return str(folder)


def csv(folder: Path) -> Any:
    TABLE.to_pandas().to_csv(folder / "rows.csv", index=False)
    return str(folder / "*.csv")


def stream(folder: Path) -> Any:
    return Dataset(TABLE).to_iterable_dataset(num_shards=3)


KINDS: dict[str, Callable[[Path], Any]] = {
    "parquet": parquet,
    "csv": csv,
    "stream": stream,
    "dataset": lambda folder: Dataset(TABLE),
    "shuffled dataset": lambda folder: Dataset(TABLE.take(list(range(ROWS))[::-1])).select(range(ROWS)[::-1]),
    "pandas": lambda folder: pd.DataFrame(TABLE.to_pydict()),
    "columns": lambda folder: TABLE.to_pydict(),
    "rows": lambda folder: TABLE.to_pylist(),
    "ray": lambda folder: ray.data.from_arrow([TABLE.slice(0, 33), TABLE.slice(33)]),
}


def build(model: Any, folder: Path, source: Any, **arguments: Any) -> BuiltSource[RayBatchSource]:
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder / "out"), **arguments),
        train_dataset=source,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    return build_on_cluster(trainer.data.train_specs(1)[TRAIN])


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_rows_in_the_same_order(
    cluster: None, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(segments, "ROWS", 16)
    built = build(tiny_model, tmp_path, KINDS[kind](tmp_path), window_rows=None)
    (window,) = built.source.windows
    encoder = tiny_model.token_encoder()
    expected = encoder(TABLE["a"].to_pylist())
    for row, ids in enumerate(window.ids("a", np.arange(ROWS))):
        assert ids.tolist() == expected[row].tolist()
    rows = built.source.piece(0, 0).plan.rows
    assert sorted(rows.tolist()) == list(range(ROWS))
    assert built.fingerprint["rows"] == ROWS
    assert built.stats[""].block_rows == (16,) * 6 + (4,)


def test_faults_name_the_file_and_the_row(cluster: None, tiny_model: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    folder = parquet(data)
    broken = TABLE.slice(40, 20).to_pydict()
    broken["b"][3] = None
    pq.write_table(pa.table(broken), Path(folder) / "part-2.parquet")
    with pytest.raises(
        ValueError, match=r"row 43, .*part-2\.parquet, row 3, column 'b': expected a text, found None"
    ):
        build(tiny_model, tmp_path, folder)
    skipped = build(tiny_model, tmp_path, folder, bad_rows="skip")
    assert [row for row, _ in skipped.faults[""]] == [43]
    assert 43 not in skipped.source.piece(0, 0).plan.rows
    assert len(skipped.source.piece(0, 0).plan.rows) == ROWS - 1


def test_a_ragged_line_is_an_error_or_put_aside(cluster: None, tiny_model: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\none,two\nthree,four,five\nsix,seven\n")
    with pytest.raises(ValueError, match=r"rows\.csv, line 3"):
        build(tiny_model, tmp_path, str(file))
    skipped = build(tiny_model, tmp_path, str(file), bad_rows="skip")
    assert len(skipped.faults[""]) == 1
    assert len(skipped.source.piece(0, 0).plan.rows) == 2


def test_a_stream_is_read_as_far_as_the_steps_need(cluster: None, tiny_model: Any, tmp_path: Path) -> None:
    built = build(tiny_model, tmp_path, stream(tmp_path), max_steps=4, per_device_train_batch_size=8)
    assert built.source.rows == 32
    assert built.source.steps == 4


def test_what_a_run_will_do_is_said(cluster: None, tiny_model: Any, tmp_path: Path) -> None:
    common = {
        "a": [f"anchor {i}" for i in range(90)],
        "b": ["the same"] * 30 + [f"text {i}" for i in range(60)],
    }
    said = "\n".join(
        build(
            tiny_model, tmp_path, common, batch_sampler="no_duplicates", per_device_train_batch_size=30
        ).summary
    )
    assert (
        "90 rows in 1 window(s), global batch 30, in-batch negatives from 30 rows, 33.3% of rows share a text"
        in said
    )
    assert "one text occurs 30 times" in said
    assert 'collisions="keep"' in said
    assert "an epoch: 30 steps over 90 of 90 rows" in said


@pytest.mark.parametrize("kind", ["parquet", "columns"])
def test_tasks_that_make_blocks_take_no_cpu(cluster: None, tmp_path: Path, kind: str) -> None:
    """Lost blocks are made again by the same tasks, while workers hold every CPU."""
    columns = ColumnSpec(("a", "b"), None)
    opened = ingest.open_source(KINDS[kind](tmp_path), Encoding(columns, None), "rows")
    tasks = [
        step.ray_remote_args
        for step in opened._logical_plan.dag.post_order_iter()
        if hasattr(step, "ray_remote_args")
    ]
    assert len(tasks) == {"parquet": 2, "columns": 1}[kind]
    assert all(options["num_cpus"] == 0 and options["memory"] > 0 for options in tasks)


def test_tasks_that_make_blocks_are_as_many_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes(*resources: dict[str, float]) -> None:
        made = [
            {"NodeID": str(number), "Alive": True, "Resources": has} for number, has in enumerate(resources)
        ]
        monkeypatch.setattr(ray, "nodes", lambda: made)

    nodes({"CPU": 4, "memory": 800.0}, {"CPU": 2, "memory": 300.0})
    assert ingest.beside_workers() == {"num_cpus": 0, "memory": 183}
    nodes({"memory": 500.0}, {"CPU": 2, "memory": 300.0}, {"memory": 500.0})
    assert ingest.beside_workers()["label_selector"] == {NODE_ID: "!in(0,2)"}
    nodes({"memory": 500.0})
    assert ingest.beside_workers() == {}


def test_windows_that_are_large_for_a_node_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = [{"Alive": True, "Resources": {"object_store_memory": size}} for size in (16 << 20, 40 << 20)]
    monkeypatch.setattr(ray, "nodes", lambda: [*stores, {"Alive": True, "Resources": {}}])
    nothing = describe_blocks([], ColumnSpec(("a", "b"), None))
    stats = {"pairs": replace(nothing, block_rows=(8192,) * 5, size=10 << 20)}
    ingest.check_windows(stats, 8192)  # 2 MiB, an eighth of the smaller store
    assert capsys.readouterr().out == ""
    for window_rows, rows, size in ((24576, "24,576", 6), (None, "40,960", 10)):
        ingest.check_windows(stats, window_rows)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"pairs: {rows} rows, shuffled at once, take {size} MiB, more than 15% of")
        assert line.endswith(
            "object store (2 MiB): blocks may be read from disk again and again; window_rows=8192 fits."
        )
    ingest.check_windows({"pairs": replace(nothing, block_rows=(8192,), size=5 << 20)}, None)
    assert capsys.readouterr().out.endswith("again; no window fits: give nodes larger ones.\n")
    ingest.check_windows(
        {"pairs": replace(nothing, block_rows=(8192,), size=1 << 20)}, 1 << 20, {"pairs": 1 << 20}
    )
    assert "1,048,576 rows, shuffled at once, take 128 MiB" in capsys.readouterr().out
