"""Optimized and quantized files: their names, what they compute, and what is refused."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_st import (
    CrossEncoder,
    SentenceTransformer,
    backend,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
    export_static_quantized_openvino_model,
)
from ray_st.models.exported.calibration_texts import CalibrationTexts
from reranker_folders import text_pairs

TEXTS = ["the weather is sunny", "a man eats pasta in the good weather and is good", "bad", "a query"] * 3


def opened(folder: Path, backend: str, file_name: str | None = None, kind: Any = SentenceTransformer) -> Any:
    options = {} if file_name is None else {"file_name": file_name}
    return kind(str(folder), backend=backend, device="cpu", model_kwargs=options)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "model")
    return tmp_path / "model"


def close(found: np.ndarray, known: np.ndarray, least: float) -> bool:
    """Whether all cosines are at least so large."""
    cosines = (found * known).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(known, axis=1)
    return bool(cosines.min() >= least)


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_levels_of_optimization(folder: Path, level: str) -> None:
    model = opened(folder, "onnx")
    assert export_optimized_onnx_model(model, level, str(folder)) is None
    found = opened(folder, "onnx", f"model_{level}.onnx").encode(TEXTS)
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=2e-2 if level == "O3" else 1e-5)


def test_half_precision_is_for_gpus(folder: Path) -> None:
    with pytest.raises(
        ValueError, match="O4 computes in half precision, for which CPUs have no fast arithmetic"
    ):
        export_optimized_onnx_model(opened(folder, "onnx"), "O4", str(folder))
    with pytest.raises(ValueError, match="one of O1, O2, O3, O4; got 'O5'"):
        export_optimized_onnx_model(opened(folder, "onnx"), "O5", str(folder))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("avx2", "model_quint8_avx2.onnx"),
        ({"weight_type": "QInt8", "per_channel": False}, "model_qint8_quantized.onnx"),
    ],
)
def test_weights_of_8_bits(folder: Path, config: Any, name: str) -> None:
    model, root = opened(folder, "onnx"), list(logging.getLogger().handlers)
    export_dynamic_quantized_onnx_model(model, config, str(folder))
    small = opened(folder, "onnx", name)
    assert close(small.encode(TEXTS), model.encode(TEXTS), 0.99)
    assert logging.getLogger().handlers == root  # quantization logs with the root logger
    with pytest.raises(ValueError, match=f"needs a model in float32; {name} is quantized"):
        export_optimized_onnx_model(small, "O1", str(folder))


def test_what_quantization_does_not_know(folder: Path) -> None:
    model = opened(folder, "onnx")
    with pytest.raises(ValueError, match="one of arm64, avx2, avx512, avx512_vnni, or a dict"):
        export_dynamic_quantized_onnx_model(model, "riscv", str(folder))
    with pytest.raises(ValueError, match=r"quantization_config: .*bits"):
        export_dynamic_quantized_onnx_model(model, {"bits": 4}, str(folder))


def test_quantization_by_example_texts(folder: Path) -> None:
    model = opened(folder, "openvino")
    export_static_quantized_openvino_model(model, {"num_samples": 10}, str(folder), TEXTS)
    small = opened(folder, "openvino", "openvino_model_qint8_quantized.xml")
    assert close(small.encode(TEXTS), model.encode(TEXTS), 0.95)
    with pytest.raises(ValueError, match=r"quantization_config: .*bits"):
        export_static_quantized_openvino_model(model, {"bits": 4}, str(folder), TEXTS[:2])
    with pytest.raises(ValueError, match="no texts to find the ranges"):
        export_static_quantized_openvino_model(model, None, str(folder), [])


def test_a_reranker_is_quantized_by_pairs(exported_reranker: Path, tmp_path: Path) -> None:
    pairs = text_pairs(12)
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("one", "two"), *pairs])
    model = opened(exported_reranker, "openvino", kind=CrossEncoder)
    export_static_quantized_openvino_model(
        model,
        None,
        str(tmp_path),
        str(tmp_path / "pairs.csv"),
        column_name=["one", "two"],
        file_suffix="small",
    )
    shutil.copy(exported_reranker / "config.json", tmp_path)
    for name in exported_reranker.glob("*token*"):
        shutil.copy(name, tmp_path)
    small = opened(tmp_path, "openvino", "openvino_model_small.xml", CrossEncoder)
    assert np.abs(small.predict(pairs) - model.predict(pairs)).max() < 0.2


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (CalibrationTexts("org/set", "default", None, "text"), "Name all of dataset_name"),
        (CalibrationTexts(column="text"), "Name all of dataset_name"),
        (CalibrationTexts("rows.csv"), r"column_name: which of \['text', 'number'\]"),
        (
            CalibrationTexts("rows.csv", column="sentence"),
            "column_name: there is no 'sentence'; the columns are",
        ),
        (CalibrationTexts("rows.csv", column="number"), "hold 1, which is no text"),
    ],
)
def test_texts_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: CalibrationTexts, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,number\na good text,1\n")
    with pytest.raises(ValueError, match=message):
        texts.read(3)
    assert CalibrationTexts("rows.csv", column="text").read(3) == ["a good text"]


def test_the_model_must_have_the_backend(folder: Path) -> None:
    with pytest.raises(
        ValueError, match="opened with backend='onnx'; this SentenceTransformer has no exported"
    ):
        export_optimized_onnx_model(SentenceTransformer(str(folder), device="cpu"), "O1", str(folder))
    with pytest.raises(ValueError, match=r"opened with backend='openvino'.*backend 'onnx'"):
        export_static_quantized_openvino_model(opened(folder, "onnx"), None, str(folder), TEXTS)


def test_a_file_goes_to_the_hub_beside_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[set[str], dict[str, Any]]] = []

    class Hub:
        def upload_folder(self, folder_path: Path, **options: Any) -> None:
            sent.append(({path.name for path in Path(folder_path).iterdir()}, options))

    monkeypatch.setattr("ray_st.models.exported.file_export.HfApi", Hub)
    export_optimized_onnx_model(opened(folder, "onnx"), "O1", "me/tiny", push_to_hub=True, create_pr=True)
    ((files, options),) = sent
    assert files == {"model_O1.onnx"}
    assert (options["repo_id"], options["path_in_repo"], options["create_pr"]) == ("me/tiny", "onnx", True)
    assert "model_kwargs={'file_name': 'onnx/model_O1.onnx'}" in options["commit_description"]


def test_the_documented_module_has_the_functions() -> None:
    assert backend.export_optimized_onnx_model is export_optimized_onnx_model
    assert set(backend.__all__) <= set(dir(backend))
