"""Data that is encoded while training goes on: the order and rows of data that was encoded before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from datasets import Dataset

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.data import segments
from ray_st.data.catalogue import Catalogue
from ray_st.data.encoding import FAULT
from ray_st.data.sources import SourceError
from ray_st.data.token_cache import BlockEncoder
from ray_st.runtime.data import encoded_segments
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.cluster_source import build_on_cluster
from ray_st.runtime.data.encoded_segments import EncodedSegments
from ray_st.runtime.data.streamed_source import encode_segments, seekable_parts
from ray_st.runtime.data.window_actor import WindowPlans
from ray_st.training.data.local_source import build_here
from ray_st.training.data.source_builder import BuiltSource
from ray_st.training.data.specs import TRAIN, LoaderSpec

pytestmark = pytest.mark.ray

ROWS = 203
TABLE = pa.table({"a": [f"anchor {i}" for i in range(ROWS)], "b": [f"text {i % 150}" for i in range(ROWS)]})


def parquet(folder: Path, table: pa.Table = TABLE) -> str:
    data = folder / "parquet"
    data.mkdir()
    for part in range(4):
        pq.write_table(table.slice(part * 60, 60), data / f"part-{part}.parquet", row_group_size=7)
    return str(data)


def one_row_group(folder: Path, table: pa.Table = TABLE) -> str:
    pq.write_table(table, folder / "one.parquet")
    return str(folder / "one.parquet")


def csv(folder: Path, table: pa.Table = TABLE) -> str:
    table.to_pandas().to_csv(folder / "rows.csv", index=False)
    return str(folder / "rows.csv")


def packed_csv(folder: Path, table: pa.Table = TABLE) -> str:
    table.to_pandas().to_csv(folder / "rows.csv.gz", index=False)
    return str(folder / "rows.csv.gz")


def json_lines(folder: Path, table: pa.Table = TABLE) -> str:
    data = folder / "lines"
    data.mkdir()
    for part in range(3):
        rows = table.slice(part * 90, 90).to_pylist()
        (data / f"part-{part}.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    return str(data)


def json_list(folder: Path, table: pa.Table = TABLE) -> str:
    (folder / "rows.json").write_text(json.dumps(table.to_pylist()))
    return str(folder / "rows.json")


KINDS: dict[str, Callable[[Path], Any]] = {
    "parquet": parquet,
    "one_row_group": one_row_group,
    "dataset": lambda folder: Dataset(TABLE),
    "table": lambda folder: TABLE,
    "csv": csv,
    "json_lines": json_lines,
    "packed_csv": packed_csv,
    "json_list": json_list,
}
WHOLE = ("packed_csv", "json_list")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS", 16)


def spec_of(model: Any, folder: Path, source: Any, **arguments: Any) -> LoaderSpec:
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "out"), **{"window_rows": 64, **arguments}
        ),
        train_dataset=source,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    return trainer.data.train_specs(1)[TRAIN]


def batches(source: Any, epoch: int = 0) -> list[list[int]]:
    found: list[list[int]] = []
    while len(found) < source.steps:
        piece = source.piece(epoch, len(found))
        found += [piece.batch(step).tolist() for step in range(piece.first, piece.end)]
    return found


def is_streamed(built: BuiltSource[RayBatchSource]) -> bool:
    return isinstance(built.source.planner, WindowPlans)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"batch_sampler": "no_duplicates", "collisions": "mask", "dataloader_drop_last": True},
        {"group_by_length": True},
    ],
    ids=["default", "mask", "length"],
)
def test_the_order_is_that_of_rows_encoded_in_this_process(
    cluster: None, tiny_model: Any, tmp_path: Path, arguments: Any
) -> None:
    here = build_here(spec_of(tiny_model, tmp_path, TABLE, **arguments))
    kinds = KINDS if not arguments else {"parquet": parquet}
    for kind, make in kinds.items():
        built = build_on_cluster(spec_of(tiny_model, tmp_path, make(tmp_path), **arguments))
        assert is_streamed(built) == (kind not in WHOLE)
        assert built.fingerprint == here.fingerprint
        for epoch in range(2 if kind == "parquet" else 1):
            assert batches(built.source, epoch) == batches(here.source, epoch)


def test_rows_are_those_of_the_file(cluster: None, tiny_model: Any, tmp_path: Path) -> None:
    built = build_on_cluster(spec_of(tiny_model, tmp_path, parquet(tmp_path)))
    expected = tiny_model.token_encoder()(TABLE["a"].to_pylist())
    (window,) = built.source.windows
    step = 0
    while step < built.source.steps:
        piece = built.source.piece(0, step)
        for row, ids in zip(piece.plan.rows, window.ids("a", piece.plan.rows), strict=True):
            assert ids.tolist() == expected[row].tolist()
        step = piece.end


def test_a_lost_planner_is_replaced_by_one_that_makes_the_same_plans(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    built = build_on_cluster(spec_of(tiny_model, tmp_path, parquet(tmp_path)))
    expected = batches(built.source)
    (window,) = built.source.windows
    plans: Any = built.source.planner
    piece = built.source.piece(0, built.source.steps - 1)
    ray.kill(plans._actor, no_restart=False)
    rows = piece.batch(built.source.steps - 1)
    ids = tiny_model.token_encoder()([TABLE["a"][int(row)].as_py() for row in rows])
    assert [found.tolist() for found in window.ids("a", rows)] == [known.tolist() for known in ids]
    assert batches(built.source) == expected


def test_segments_beyond_the_bound_are_given_up_and_encoded_again(
    cluster: None, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_st.runtime.data import streamed_source

    monkeypatch.setattr(streamed_source, "_KEPT_SHARE", 1e-6)
    monkeypatch.setattr(streamed_source, "_ROOM_SHARE", 1e-6)
    here = build_here(spec_of(tiny_model, tmp_path, TABLE))
    built = build_on_cluster(spec_of(tiny_model, tmp_path, parquet(tmp_path)))
    for epoch in range(2):
        assert batches(built.source, epoch) == batches(here.source, epoch)


def test_no_more_segments_are_encoded_ahead_than_there_is_room_for(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    (dataset,) = spec_of(tiny_model, tmp_path, parquet(tmp_path)).datasets.values()
    parts = seekable_parts(dataset)
    assert parts is not None
    for room, expected in ((None, 8), (0, 4), (6, 6), (100, 8)):
        places = Catalogue(parts, segments.ROWS)
        encoder = BlockEncoder.of(dataset.encoding, None, "")
        size = EncodedSegments(places, encoder, "", False, 0, None, dict).sample([0]).size
        bytes_of_room = None if room is None else int((room + 0.5) * size)
        rows = EncodedSegments(places, encoder, "", False, 1 << 30, bytes_of_room, dict)
        rows.sample(range(4))
        rows.ahead(np.arange(4, 8))
        assert len(rows._segments) == expected
        assert list(rows.references(range(4, 8))) == [4, 5, 6, 7]


def test_segments_of_one_row_group_are_encoded_by_few_tasks(
    cluster: None, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[int]] = []
    together = Catalogue.together

    def noted(catalogue: Catalogue, chosen: list[int], most: int) -> list[list[int]]:
        groups.extend(together(catalogue, chosen, most))
        return together(catalogue, chosen, most)

    monkeypatch.setattr(Catalogue, "together", noted)
    monkeypatch.setattr(encoded_segments, "resources", lambda here: {"CPU": 2})
    found: list[tuple[Any, list[pa.Table]]] = []
    for make in (one_row_group, parquet):
        spec = spec_of(tiny_model, tmp_path, make(tmp_path, faulty()), bad_rows="skip")
        (dataset,) = spec.datasets.values()
        parts = seekable_parts(dataset)
        assert parts is not None
        rows = encode_segments(spec, dataset, parts)
        blocks = [ray.get(block) for block in rows.references(range(13)).values()]
        found.append((rows.sample(range(13)), [block.drop_columns([FAULT]) for block in blocks]))
    assert groups[:3] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12]]
    (one, one_blocks), (several, several_blocks) = found
    assert one_blocks == several_blocks
    assert one.fingerprints == several.fingerprints
    assert (
        [row for row, _ in one.faults] == [row for row, _ in several.faults] == [3, 77, 78, 79, 80, 131, 202]
    )


# ---- rows that turn out to be unusable ----


def faulty() -> pa.Table:
    texts = TABLE["b"].to_pylist()
    for row in (3, 77, 78, 79, 80, 131, 202):
        texts[row] = None
    return pa.table({"a": TABLE["a"], "b": texts})


def test_an_unusable_row_ends_the_run_with_its_file_and_row(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    def everything() -> None:
        batches(build_on_cluster(spec_of(tiny_model, tmp_path, parquet(tmp_path, faulty()))).source)

    with pytest.raises(
        ValueError, match=r"part-\d\.parquet, row \d+, column 'b': expected a text, found None"
    ):
        everything()


def test_unusable_rows_are_put_aside_and_the_steps_are_kept(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    orders = []
    for make in (parquet, csv, json_lines, packed_csv):
        spec = spec_of(tiny_model, tmp_path, make(tmp_path, faulty()), bad_rows="skip")
        built = build_on_cluster(spec)
        orders.append(batches(built.source))
        assert len(orders[-1]) == built.source.steps == -(-ROWS // 8)
        if is_streamed(built):
            plans: Any = built.source.planner
            seen = plans.seen()[""]
            assert [row for row, _ in seen.faults] == [3, 77, 78, 79, 80, 131, 202]
            assert seen.unusable == 7
    assert all(order == orders[0] for order in orders)
    rows = sorted(row for batch in orders[0] for row in batch)
    assert rows == sorted(set(range(ROWS)) - {3, 77, 78, 79, 80, 131, 202})


# ---- files that are not as they were counted ----


def test_a_file_that_changes_after_it_was_listed_ends_the_run(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    folder = parquet(tmp_path)
    built = build_on_cluster(spec_of(tiny_model, tmp_path, folder))
    for part in range(4):
        pq.write_table(TABLE.slice(part * 60, 59), f"{folder}/part-{part}.parquet")
    with pytest.raises(SourceError, match=r"part-\d\.parquet: it was removed or written anew since"):
        batches(built.source)


def test_a_text_file_that_changes_after_it_was_counted_ends_the_run(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    file = csv(tmp_path)
    built = build_on_cluster(spec_of(tiny_model, tmp_path, file))
    Path(file).write_text(Path(file).read_text().replace("anchor 1", "anchor 12"))
    with pytest.raises(SourceError, match=r"rows\.csv: it was removed or written anew since"):
        batches(built.source)


def test_a_bad_line_is_named_by_its_number_in_the_file(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    file = csv(tmp_path)
    lines = Path(file).read_text().splitlines(keepends=True)
    lines[181] = "a,b,c\n"
    Path(file).write_text("".join([lines[0], "\n\n", *lines[1:]]))

    def everything() -> None:
        batches(build_on_cluster(spec_of(tiny_model, tmp_path, file)).source)

    with pytest.raises(ValueError, match=r"row 180, .*rows\.csv, line 184: expected 2 fields, found 3"):
        everything()


def test_a_truncated_file_is_named_before_anything_is_read(
    cluster: None, tiny_model: Any, tmp_path: Path
) -> None:
    folder = parquet(tmp_path)
    whole = Path(folder, "part-3.parquet").read_bytes()
    Path(folder, "part-3.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"part-3\.parquet: cannot be read as Parquet"):
        spec_of(tiny_model, tmp_path, folder)


def test_a_damaged_row_group_is_named_when_it_is_read(cluster: None, tiny_model: Any, tmp_path: Path) -> None:
    folder = parquet(tmp_path)
    file = Path(folder, "part-2.parquet")
    data = bytearray(file.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    file.write_bytes(bytes(data))
    with pytest.raises(SourceError, match=r"part-2\.parquet: cannot be read as Parquet"):
        batches(build_on_cluster(spec_of(tiny_model, tmp_path, folder)).source)
