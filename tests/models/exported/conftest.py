from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from ray_st import CrossEncoder, SentenceTransformer
from reranker_folders import save_classifier

pytest.importorskip("onnxruntime")
if find_spec("openvino") is None:  # not imported: the package does it in a way of its own
    pytest.skip("openvino is not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder, with the files of both backends."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(tiny_folder, folder)
    for backend in ("onnx", "openvino"):
        SentenceTransformer(str(folder), backend=backend, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def exported_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small reranker's folder, with the files of both backends."""
    folder = save_classifier(tmp_path_factory.mktemp("exported") / "reranker", "bert")
    for backend in ("onnx", "openvino"):
        CrossEncoder(str(folder), backend=backend, device="cpu").save(str(folder))
    return folder
