"""`ray-st export`: which files it writes, what it says of them, and when it calls one bad."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from ray_st import SentenceTransformer
from ray_st.cli import main
from ray_st.cli.export_check import Checked
from reranker_folders import save_classifier, text_pairs

pytest.importorskip("onnxruntime")
if find_spec("openvino") is None:  # not imported: the package does it in a way of its own
    pytest.skip("openvino is not installed", allow_module_level=True)


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> str:
    shutil.copytree(tiny_folder, tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    lines = [f"{one},{other},{place / 20}" for place, (one, other) in enumerate(text_pairs(20))]
    (tmp_path / "pairs.csv").write_text("\n".join(["one,other,score", *lines]))
    return str(tmp_path / "pairs.csv")


def test_files_are_written_and_compared(model: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = main(
        ["export", model, "--optimize", "O1", "--quantize", "avx2", "--check", pairs, "--max-loss", "9"]
    )
    assert found == 0
    names = ["model.onnx", "model_O1.onnx", "model_O1_quint8_avx2.onnx"]
    assert sorted(path.name for path in Path(model, "onnx").iterdir()) == names
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"written: {model}/onnx/{name}" for name in names]
    assert lines[3].split() == [
        "file",
        "pairs/s",
        "times",
        "torch",
        "apart",
        "Spearman",
        "with",
        "score",
        "lost",
    ]
    assert [line.split()[0] for line in lines[4:]] == ["torch", *names]
    assert lines[5].split()[-1] in ("0.00%", "-0.00%")


def test_a_folder_of_its_own_gets_the_model_too(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", model, str(out), "--to", "openvino"]) == 0
    assert not Path(model, "openvino").exists()
    assert SentenceTransformer(str(out), backend="openvino").encode("a query").shape == (32,)
    assert SentenceTransformer(str(out)).backend == "torch"


def test_a_reranker_for_openvino(tmp_path: Path, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(save_classifier(tmp_path / "reranker", "bert"))
    options = ["--to", "openvino", "--type", "CrossEncoder", "--max-loss", "9", "--check", pairs]
    assert main(["export", folder, *options, "--quantize", "int8", "--calibrate", pairs]) == 0
    names = {"openvino_model.xml", "openvino_model_qint8_quantized.xml"}
    assert names < {path.name for path in Path(folder, "openvino").iterdir()}
    assert "openvino_model_qint8_quantized.xml" in capsys.readouterr().out


def test_a_file_that_loses_too_much_is_called_so(
    model: str, pairs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Checked, "loss", lambda self, torch: 0.02)
    assert main(["export", model, "--to", "openvino", "--check", pairs]) == 2
    assert (
        "openvino_model.xml loses 2.0% of Spearman with score; at most 1.0% is good"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "openvino", "--optimize", "O1"], "--optimize: only for --to onnx"),
        (
            ["--quantize", "int8"],
            "--quantize: expected arm64, avx2, avx512, avx512_vnni for --to onnx, found int8",
        ),
        (
            ["--to", "openvino", "--quantize", "avx2"],
            "--quantize: expected int8 for --to openvino, found avx2",
        ),
        (
            ["--to", "openvino", "--quantize", "int8"],
            "--calibrate: needed for --quantize int8, and only there",
        ),
        (["--batch-size", "0"], "--batch-size and --max-loss"),
        (
            ["--check", "one.csv"],
            "--check: expected 2 columns of texts; the columns are {'one': 'string', 'n': 'int64'}",
        ),
        (["--check", "none.csv"], "--check: none.csv has no rows"),
        (["--optimize", "O4"], "O4 computes in half precision"),
    ],
)
def test_what_is_refused(
    model: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.csv").write_text("one,n\na,1\n")
    Path("none.csv").write_text("one,other\n")
    assert main(["export", model, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_name_on_the_hub_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "some/model"]) == 2
    assert "OUTPUT: missing; some/model is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encode", "evaluate"])
def test_other_commands_take_such_files(
    command: str, model: str, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", model, "--to", "openvino"]) == 0
    name, bad = "openvino_model.xml", "openvino_model_O9.xml"
    file = {"encode": ["in.txt", str(tmp_path / "out.parquet")], "evaluate": [str(tmp_path / "run.yaml")]}[
        command
    ]
    (tmp_path / "in.txt").write_text("a query\na document\n")
    (tmp_path / "run.yaml").write_text(
        f"evaluators:\n- type: EmbeddingSimilarityEvaluator\n  data:\n    path: {pairs}\n"
    )
    if command == "encode":
        file[0] = str(tmp_path / "in.txt")
    assert main([command, model, *file, "--backend", "openvino", "--file-name", name]) == 0
    assert main([command, model, *file, "--backend", "openvino", "--file-name", bad]) == 2
    assert (
        "no exported file 'openvino_model_O9.xml'; there are: openvino/openvino_model.xml"
        in capsys.readouterr().err
    )
    assert main([command, model, *file, "--file-name", name]) == 2
    assert "file_name: only for backend onnx or openvino" in capsys.readouterr().err
