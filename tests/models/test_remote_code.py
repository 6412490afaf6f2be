"""Models whose folders bring Python files: they are saved with their code, also by a process that was sent the model."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_st import SentenceTransformer
from ray_st.models import Pooling, Transformer
from ray_st.models.folder_files import ModelFolderError
from ray_st.models.remote_code import install_code, is_remote, loaded_code
from remote_folder import CODE, forget, save_remote

TEXTS = ["a man eats pasta", "good weather"]


@pytest.fixture
def other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Each call makes this process one that knows nothing of what was opened before, with a cache of its own."""
    monkeypatch.setattr(sys, "path", before := list(sys.path))
    caches = iter(tmp_path / f"cache {number}" for number in range(9))

    def begin() -> None:
        forget()
        sys.path[:] = before
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(next(caches)))

    before = list(before)
    begin()
    yield begin
    forget()


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    return save_remote(tmp_path / "remote", tiny_encoder)


def opened(folder: Path) -> Any:
    return SentenceTransformer(folder, trust_remote_code=True, device="cpu")


def test_without_any_nothing_travels(other_process: Any) -> None:
    assert loaded_code() == {}
    install_code({})


def test_a_model_that_was_sent_computes_saves_and_loads(
    folder: Path, other_process: Any, tmp_path: Path
) -> None:
    model = opened(folder)
    expected = model.encode(TEXTS)
    code, sent = loaded_code(), pickle.dumps(model)
    other_process()
    with pytest.raises(ModuleNotFoundError, match="transformers_modules"):
        pickle.loads(sent)
    install_code(code)
    install_code(code)  # by another worker of the node
    received = pickle.loads(sent)
    assert np.array_equal(received.encode(TEXTS), expected)
    received.save(tmp_path / "saved")
    assert CODE.keys() <= {path.name for path in (tmp_path / "saved").iterdir()}
    received.load_weights(tmp_path / "saved")
    assert loaded_code().keys() >= code.keys()
    other_process()
    assert np.array_equal(opened(tmp_path / "saved").encode(TEXTS), expected)
    with pytest.raises(ModelFolderError, match="custom code"):
        SentenceTransformer(tmp_path / "saved", device="cpu")


def test_the_peer_opens_what_is_saved(folder: Path, other_process: Any, peer: Any, tmp_path: Path) -> None:
    model = opened(folder)
    expected = model.encode(TEXTS)
    model.save(tmp_path / "saved")
    other_process()
    theirs = peer.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), expected, atol=1e-6)


def test_a_model_of_modules_trusts_the_code_that_it_runs(
    folder: Path, other_process: Any, tmp_path: Path
) -> None:
    parts = [Transformer(folder, trust_remote_code=True), Pooling(16)]
    assert is_remote(type(parts[0].auto_model))
    model = SentenceTransformer(modules=parts, device="cpu")
    expected = model.encode(TEXTS)
    model.save(tmp_path / "saved")
    for weight in model.parameters():
        weight.data.zero_()
    model.load_weights(tmp_path / "saved")
    assert np.array_equal(model.encode(TEXTS), expected)


def test_code_stays_in_the_cache(other_process: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        install_code({"../planted.py": "raise SystemExit"})
    assert not (tmp_path / "planted.py").exists()
