"""A run whose folder is in an object store: what reaches it, and what stays on this machine meanwhile."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.training.async_eval.protocol import EvalRequest, evaluate_request, stand_in
from ray_st.training.checkpoint.node_copy import fetched, own_start
from ray_st.training.checkpoint.resume import find_checkpoint
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.local_source import local_context
from ray_st.world import World

from .conftest import ROWS

EVALUATING = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "dev_spearman_cosine",
}


@pytest.fixture
def remote(tmp_path: Path) -> CheckpointStore:
    """A run's folder that must be written through its file system's interface."""
    (tmp_path / "bucket").mkdir()
    bucket = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    return CheckpointStore("runs/first", bucket, "first")


@pytest.fixture
def running(make: Any, remote: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a worker's trainer of a run in that folder."""
    from ray import cloudpickle

    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))

    def running(**arguments: Any) -> Any:
        dev = EmbeddingSimilarityEvaluator(ROWS["a"][:3], ROWS["b"][:3], [0.0, 0.5, 1.0], name="dev")
        arguments = {**EVALUATING, "scratch_dir": str(tmp_path / "scratch"), **arguments}
        trainer = make(arguments=arguments, evaluator=dev)
        description = cloudpickle.loads(cloudpickle.dumps(trainer.spec()))
        context = local_context(trainer.data.train_specs(1), tmp_path / "unused")
        store = dataclasses.replace(remote)
        return description.rebuild(dataclasses.replace(context, store=store))

    return running


def rows(bucket: Path) -> list[str]:
    lines = (bucket / "runs" / "first" / "eval" / "similarity_evaluation_dev_results.csv").read_text()
    return [line.split(",")[1] for line in lines.splitlines()[1:]]


def test_a_run_and_one_that_goes_on_from_it(
    running: Any, remote: CheckpointStore, tmp_path: Path, fresh_accelerator: None
) -> None:
    first = running()
    first.train()
    best = first.state.best_global_step
    assert first.state.best_model_checkpoint == f"runs/first/checkpoint-{best}"
    assert remote.steps() == sorted({best, 3})
    assert rows(tmp_path / "bucket") == ["1", "2", "3"]
    scratch = Path(first.args.output_dir)
    assert scratch.parent == tmp_path / "scratch"
    assert not list(scratch.glob("checkpoint-*"))
    store = dataclasses.replace(remote)
    start = own_start(store, World())
    assert start is not None
    assert (start.name, Path(str(start.path)).is_dir()) == ("checkpoint-3", True)
    again = running(num_train_epochs=2)
    again.train(resume_from_checkpoint=start.path)
    assert rows(tmp_path / "bucket") == ["1", "2", "3", "4", "5", "6"]


def test_local_files_are_gone_with_the_trainer(running: Any, tmp_path: Path, fresh_accelerator: None) -> None:
    trainer = running()
    assert list((tmp_path / "scratch").iterdir())
    del trainer
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())


def test_files_of_background_evaluations(
    running: Any, remote: CheckpointStore, tmp_path: Path, fresh_accelerator: None
) -> None:
    """Two processes evaluate, one after the other, as when the first is lost."""
    running(eval_strategy="no", load_best_model_at_end=False, save_total_limit=None).train()
    for step in (2, 3):
        evaluator = running()
        stand_in(evaluator, 1)
        store = dataclasses.replace(remote, scratch_dir=str(tmp_path / "scratch"))
        found = evaluate_request(evaluator, EvalRequest(step, None, store))
        assert "eval_dev_spearman_cosine" in found.entries[0]
        assert not list(store.local.glob("fetched/*"))
    assert rows(tmp_path / "bucket") == ["2", "3"]


def test_what_a_user_names_by_uri(
    remote: CheckpointStore,
    running: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_accelerator: None,
) -> None:
    running().train()

    def opened(place: str) -> Any:
        assert place.startswith("s3://bucket/")
        return remote.filesystem, place.removeprefix("s3://bucket/")

    monkeypatch.setattr("ray_st.training.checkpoint.store.open_location", opened)
    uri = "s3://bucket/runs/first/checkpoint-3"
    assert find_checkpoint(remote, uri).name == "checkpoint-3", "it is the run's own"
    other = CheckpointStore(str(tmp_path / "other"), scratch_dir=str(tmp_path / "scratch"))
    start = find_checkpoint(other, uri)
    assert (start.path, start.manifest["step"]) == (uri, 3)
    here = fetched(other, start, World())
    assert (Path(str(here.path)) / "trainer_state.json").is_file()
    weights = tmp_path / "bucket" / "runs" / "first" / "checkpoint-3" / "model.safetensors"
    (weights.parent / "manifest.json").unlink()
    model = fetched(other, find_checkpoint(other, uri, only_model=True), World())
    assert (Path(str(model.path)) / weights.name).read_bytes() == weights.read_bytes()
