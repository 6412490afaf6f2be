"""What a search returns: it is transformers' ``BestRun``, and opens the winner's weights wherever they are."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch
from ray.train import RunConfig
from transformers.trainer_utils import BestRun

from ray_st import SentenceTransformer, SentenceTransformerTrainer
from ray_st.training.checkpoint.store import CheckpointError, CheckpointStore
from ray_st.tune.found_run import FoundRun, SavedWeights


def save(model: SentenceTransformer, store: CheckpointStore, step: int) -> None:
    folder = store.begin(step)
    model.save_pretrained(str(folder))
    store.seal(folder)


def test_it_is_transformers_best_run(tmp_path: Path) -> None:
    weights = SavedWeights(SentenceTransformerTrainer, None, tmp_path, "", None)
    found = FoundRun.of("3", 0.5, {"x": 1}, None, None, weights)
    run_id, objective, hyperparameters, summary = found
    assert found == BestRun("3", 0.5, {"x": 1}, None) == (run_id, objective, hyperparameters, summary)
    assert found.objective == 0.5
    assert found._replace(objective=0.7).objective == 0.7
    assert repr(found) == repr(BestRun("3", 0.5, {"x": 1}, None))
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("is_remote", [False, True])
def test_the_first_place_with_a_checkpoint_is_opened(
    is_remote: bool, tmp_path: Path, tiny_folder: Path
) -> None:
    folder, model = tmp_path / "s", SentenceTransformer(str(tiny_folder), device="cpu")
    store, run_config = CheckpointStore(str(folder / "confirm/run-1")), None
    if is_remote:
        bucket = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
        run_config = RunConfig(storage_path="bucket", storage_filesystem=bucket)
        store = CheckpointStore("bucket/searches/s/id/confirm/run-1", bucket)
    save(model, store, 4)
    weights = SavedWeights(SentenceTransformerTrainer, run_config, folder, "id", None)
    opened = weights.at([("confirm/run-0", 4), ("confirm/run-1", 4)], "None left.").open()
    assert type(opened) is SentenceTransformer
    assert all(map(torch.equal, opened.state_dict().values(), model.state_dict().values()))
    with pytest.raises(CheckpointError, match=r"None left\. \(Looked for in .*: confirm/run-1/checkpoint-5"):
        weights.at([("confirm/run-1", 5)], "None left.").open()


def test_a_damaged_checkpoint_is_not_opened(tmp_path: Path, tiny_folder: Path) -> None:
    store = CheckpointStore(str(tmp_path / "run-0"))
    save(SentenceTransformer(str(tiny_folder), device="cpu"), store, 4)
    next((tmp_path / "run-0/checkpoint-4").glob("*.safetensors")).write_bytes(b"short")
    weights = SavedWeights(SentenceTransformerTrainer, None, tmp_path, "", None)
    with pytest.raises(CheckpointError, match="is damaged"):
        weights.at([("run-0", 4)], "None left.").open()
