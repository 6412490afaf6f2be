"""Scoring jobs on Ray: complete through killed workers and drivers, the same on any number of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import scorer_script
from ray_st.runtime.encode.output_folder import MANIFEST
from ray_st.runtime.encode.parts_job import Encoded
from ray_st.runtime.encode.score_corpus import score_corpus
from scorer_script import PART_ROWS, Scorer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
ROWS = 60


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for half in range(2):
        rows = range(half * ROWS // 2, (half + 1) * ROWS // 2)
        texts = {"query": [f"q{row}" for row in rows], "documents": [[f"d{row}", "e"] for row in rows]}
        pq.write_table(pa.table({"id": rows, **texts}), tmp_path / f"in/{half}.parquet")
    return tmp_path / "in"


def check_complete(output: Path) -> None:
    written = pq.read_table(output)
    assert written["id"].to_pylist() == list(range(ROWS))
    for row in written.to_pylist():
        expected = Scorer().predict([(row["query"], text) for text in row["documents"]])
        assert row["scores"] == pytest.approx(expected.tolist())
    manifest = json.loads((output / MANIFEST).read_text())
    assert sum(part["rows"] for part in manifest["files"]) == ROWS
    assert not list(output.glob(".*"))


def test_a_killed_driver_leaves_what_is_done(corpus: Path, tmp_path: Path) -> None:
    output, marker = tmp_path / "out", tmp_path / "marker"
    script = [sys.executable, scorer_script.__file__, corpus, output, marker]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    ended = subprocess.run(script, env=environment, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert before
    assert not (output / MANIFEST).exists()
    scored = score_corpus(Scorer(), corpus, output, workers=2, part_rows=PART_ROWS)
    assert 0 < scored.encoded <= ROWS - len(before) * PART_ROWS
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    check_complete(output)


def test_a_killed_worker_is_replaced_and_two_write_the_same(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killing = Scorer(tmp_path / "marker")
    scored = score_corpus(killing, corpus, tmp_path / "one", workers=1, part_rows=PART_ROWS)
    assert (tmp_path / "marker").exists()
    assert scored == Encoded(rows=ROWS, encoded=ROWS, parts=6)
    assert capsys.readouterr().out.splitlines()[-1].startswith("60/60 rows  6/6 parts")
    score_corpus(Scorer(), corpus, tmp_path / "two", workers=2, part_rows=PART_ROWS)
    assert pq.read_table(tmp_path / "one").equals(pq.read_table(tmp_path / "two"))
    check_complete(tmp_path / "one")
