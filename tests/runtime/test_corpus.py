"""Corpus jobs on Ray: complete and free of repeats through killed workers and killed drivers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import corpus_script
from corpus_script import PART_ROWS, KillOnce, model_with
from ray_st import SentenceTransformer, export_dynamic_quantized_onnx_model
from ray_st.cli import main
from ray_st.runtime.encode.corpus import Encoded, encode_corpus
from ray_st.runtime.encode.output_folder import MANIFEST

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
ROWS = 60


@pytest.fixture(autouse=True)
def _sent_by_value(cluster: None) -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(corpus_script)
    yield
    ray.cloudpickle.unregister_pickle_by_value(corpus_script)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for half in range(2):
        rows = range(half * ROWS // 2, (half + 1) * ROWS // 2)
        texts = ["good text and" + " pasta" * (row % 9) for row in rows]
        pq.write_table(pa.table({"id": rows, "text": texts}), tmp_path / f"in/{half}.parquet")
    return tmp_path / "in"


def unharmed(tiny_folder: Path, tmp_path: Path) -> Any:
    return model_with(str(tiny_folder), KillOnce(-1, tmp_path / "never", 0))


def check_complete(output: Path, model: Any) -> None:
    written = pq.read_table(output)
    assert written["id"].to_pylist() == list(range(ROWS))
    expected = model.encode(written["text"].to_pylist())
    np.testing.assert_allclose(np.stack(written["embedding"].to_numpy()), expected, atol=1e-5)
    manifest = json.loads((output / MANIFEST).read_text())
    assert sum(part["rows"] for part in manifest["files"]) == ROWS
    assert not list(output.glob(".*"))


def test_a_killed_driver_leaves_what_is_done(tiny_folder: Path, corpus: Path, tmp_path: Path) -> None:
    output, marker = tmp_path / "out", tmp_path / "marker"
    script = [sys.executable, corpus_script.__file__, tiny_folder, corpus, output, marker]
    address = ray.get_runtime_context().gcs_address
    ended = subprocess.run(script, env=os.environ | {"RAY_ADDRESS": address}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert before
    assert not (output / MANIFEST).exists()
    model = unharmed(tiny_folder, tmp_path)
    encoded = encode_corpus(model, corpus, output, workers=2, part_rows=PART_ROWS)
    assert 0 < encoded.encoded <= ROWS - len(before) * PART_ROWS
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    check_complete(output, model)


def test_a_killed_worker_is_replaced(
    tiny_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killing = model_with(str(tiny_folder), KillOnce(0, tmp_path / "marker", 2))
    encoded = encode_corpus(killing, corpus, tmp_path / "out", workers=1, part_rows=PART_ROWS)
    assert (tmp_path / "marker").exists()
    assert encoded == Encoded(rows=ROWS, encoded=ROWS, parts=6)
    assert capsys.readouterr().out.splitlines()[-1].startswith("60/60 rows  6/6 parts")
    check_complete(tmp_path / "out", unharmed(tiny_folder, tmp_path))


def test_a_quantized_file_gives_the_vectors_of_one_process(
    tiny_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    folder, file = tmp_path / "model", {"file_name": "model_quint8_avx2.onnx"}
    shutil.copytree(tiny_folder, folder)
    exported = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs={"export": True})
    export_dynamic_quantized_onnx_model(exported, "avx2", str(folder))
    model, killing = (
        SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=file) for _ in range(2)
    )
    killing.append(KillOnce(0, tmp_path / "marker", 2))
    encode_corpus(killing, corpus, tmp_path / "out", workers=2, part_rows=PART_ROWS)
    assert (tmp_path / "marker").exists()
    for part in sorted((tmp_path / "out").glob("part-*")):
        written = pq.read_table(part)
        # Ranges of activations are those of a batch, so a text's vector depends a little on the others of its part.
        expected = model.encode(written["text"].to_pylist())
        np.testing.assert_array_equal(np.stack(written["embedding"].to_numpy()), expected)


def test_int8_is_the_same_on_one_worker_and_two(
    tiny_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["encode", str(tiny_folder), str(corpus)]
    options = ["--precision", "int8", "--part-rows", "10", "--workers"]
    assert main([*command, str(tmp_path / "one"), *options, "1"]) == 0
    assert main([*command, str(tmp_path / "two"), *options, "2"]) == 0
    assert pq.read_table(tmp_path / "one").equals(pq.read_table(tmp_path / "two"))
    assert main([*command, str(tmp_path / "two"), *options, "1"]) == 0
    assert capsys.readouterr().out.endswith("(60 were there already)\n")
    assert main([*command, str(tmp_path / "two"), "--part-rows", "10"]) == 2
    assert "another job: precision was 'int8', is 'float32'" in capsys.readouterr().err


def test_a_bad_row_and_too_many_workers_are_the_users(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("text,n\ngood,1\n,2\n")
    command = [
        "encode",
        str(tiny_folder),
        str(tmp_path / "rows.csv"),
        str(tmp_path / "out"),
        "--column",
        "text",
    ]
    assert main([*command, "--num-gpus", "0.5"]) == 2
    assert (
        "1 encoder(s) need {'GPU': 0.5}; this node, which alone sees the local files, has {'GPU': 0}"
        in capsys.readouterr().err
    )
    assert main(command) == 2
    assert "rows.csv, row 1, column 'text': expected a text, found nothing." in capsys.readouterr().err
