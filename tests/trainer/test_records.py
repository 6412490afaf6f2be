"""What a run writes down: its model's card, and what trackers are told."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import yaml
from datasets import Dataset
from transformers import TrainerCallback

from ray_st import SentenceTransformer
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from ray_st.training.callbacks import trackers
from ray_st.training.callbacks.run_description import describe_run
from ray_st.training.callbacks.tracked_run import TRACKED
from ray_st.training.callbacks.trackers import TensorBoard
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.local_source import local_context

CANARY = "hf_canaryCANARYcanaryCANARY"
HIDDEN = "hf_hiddenHIDDENhiddenHIDDEN"
ROWS = Dataset.from_dict({"a": [f"one {i}" for i in range(12)], "b": [f"two {i}" for i in range(12)]})
SAVING = {"save_strategy": "steps", "save_steps": 1}


def describe(trainer: Any) -> None:
    """Notes the trainer's run in its model's card, as the driver does."""
    model, args = trainer.model, trainer.args
    specs = trainer.data.train_specs(1)
    describe_run(model.model_card_data, model, trainer.loss, args, specs, trainer.card_defaults)


class Stop(TrainerCallback):
    """Ends the process, as far as the loop can tell."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedError


def evaluator() -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(["a", "b", "c"], ["a", "c", "x"], [1.0, 0.5, 0.0], name="dev")


def matryoshka(model: Any) -> Any:
    return MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [32, 16])


@pytest.fixture
def trained(
    make: Any, sent: Any, fresh_accelerator: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A worker's trainer after a run with all that a card tells of."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # the worker's own to set; put back afterwards
    arguments = {
        **SAVING,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "hub_token": HIDDEN,
        "run_name": str(tmp_path / "name"),
        "logging_dir": str(tmp_path / "logs"),
        "trackio_space_id": CANARY,
        "load_best_model_at_end": True,
        "save_steps": 2,
    }
    trainer = make(arguments=arguments, loss=matryoshka, evaluator=evaluator(), eval_dataset=EVAL)
    describe(trainer)
    running = sent(trainer)
    running.train()
    return running


EVAL = Dataset.from_dict({"a": ["one 1", "one 2"], "b": ["two 1", "two 4"]})


def test_the_card_of_each_checkpoint_tells_of_the_run(trained: Any, tmp_path: Path) -> None:
    text = (tmp_path / "run" / "checkpoint-2" / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert {"loss:MatryoshkaLoss", "loss:MultipleNegativesRankingLoss", "dataset_size:12"} <= set(
        header["tags"]
    )
    assert header["widget"][0]["source_sentence"].startswith("one")
    assert len(header["widget"][0]["sentences"]) == 3
    for part in (
        "### Training data: unnamed",
        "- **Rows:** 12",
        "| a | string | min ",
        "| one 0 | two 0 |",
        '"matryoshka_dims"',
        "### Evaluation data: unnamed",
        "| `learning_rate` | `0.01` |",
        "<summary>All hyperparameters</summary>",
        "| `weight_decay` | `0.0` |",
        "### Semantic Similarity on `dev` (step 2)",
        "eval_dev_spearman_cosine",
        "- **Workers:** 1",
        "- **Ray:** 2.",
        "- **transformers:** 5.",
        "- **ray_st:** ",
        "Matryoshka Representation Learning",
    ):
        assert part in text, part
    assert "### Time" not in text
    trained.save_model(str(tmp_path / "final"))
    final = (tmp_path / "final" / "README.md").read_text()
    assert "### Time" in final
    assert "The bold row" in final


def test_neither_secrets_nor_paths_are_in_it(trained: Any, tmp_path: Path) -> None:
    trained.save_model(str(tmp_path / "final"))
    for card in tmp_path.rglob("README.md"):
        text = card.read_text()
        assert CANARY not in text  # an argument that happens to hold a key
        assert str(tmp_path) not in text
        assert str(Path.home()) + "/" not in text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or HIDDEN.encode() not in file.read_bytes(), file


def test_its_code_runs(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.save_model(str(tmp_path / "final"))
    code = re.search(r"```python\n(.*?)```", (tmp_path / "final" / "README.md").read_text(), re.DOTALL)
    assert code
    (tmp_path / "script.py").write_text(code[1].replace("path/to/this/model", "final"))
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path("script.py")["embeddings"].shape == (4, 32)
    assert "tensor(" in capsys.readouterr().out


def test_a_second_run_replaces_what_the_first_found(make: Any) -> None:
    trainer = make()
    describe(trainer)
    trainer.train_dataset = {"pairs": EVAL}
    describe(trainer)
    (found,) = trainer.model.model_card_data.train_datasets
    assert (found["name"], found["size"]) == ("pairs", 2)


@pytest.mark.parametrize("saved", [True, False])
def test_a_restarted_run_goes_on_in_the_same_tensorboard_folder(
    make: Any, sent: Any, fresh_accelerator: None, tmp_path: Path, saved: bool
) -> None:
    arguments = {"report_to": ["tensorboard"], **(SAVING if saved else {})}
    broken = sent(make(arguments=arguments, callbacks=[Stop(2)]))
    with pytest.raises(InterruptedError):
        broken.train()
    store = broken.worker.store
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    again = sent(make(arguments=arguments))
    again.train(resume_from_checkpoint=str(store.fetch("checkpoint-2")) if saved else None)
    assert list((tmp_path / "run" / "runs").iterdir()) == [folder]
    assert len(list(folder.iterdir())) == 2
    assert again.state.stateful_callbacks[TRACKED] == {"tensorboard": f"runs/{folder.name}"}


def test_a_resumed_run_goes_on_with_what_its_checkpoint_knows(
    make: Any, sent: Any, fresh_accelerator: None, tmp_path: Path
) -> None:
    arguments = {"report_to": ["tensorboard"], **SAVING}
    first = sent(make(arguments=arguments, callbacks=[Stop(1)]))
    with pytest.raises(InterruptedError):
        first.train()
    checkpoint = str(first.worker.store.fetch("checkpoint-1"))
    resumed = sent(make(arguments=arguments), folder=tmp_path / "other")
    resumed.worker.store.run_id = "another run"
    resumed.train(resume_from_checkpoint=checkpoint)
    known = json.loads(Path(checkpoint, "trainer_state.json").read_text())["stateful_callbacks"][TRACKED]
    assert (tmp_path / "other" / known["tensorboard"]).is_dir()


def test_a_new_run_in_the_same_folder_is_a_new_run(
    make: Any, sent: Any, fresh_accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["runs/first", "runs/second"])
    monkeypatch.setattr(trackers, "default_logdir", lambda: next(names))
    for run_id, folder in (("one", "runs/first"), ("one", "runs/first"), ("two", "runs/second")):
        running = sent(make(arguments={"report_to": ["tensorboard"]}))
        running.worker.store.run_id = run_id
        running.train()
        assert running.state.stateful_callbacks[TRACKED] == {"tensorboard": folder}


def test_event_files_are_brought_to_remote_storage(
    make: Any, fresh_accelerator: None, tmp_path: Path
) -> None:
    trainer = make(arguments={"report_to": ["tensorboard"], **SAVING})
    (tmp_path / "bucket").mkdir()
    bucket = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    place = local_context(trainer.data.train_specs(1), tmp_path / "run")
    place.store = CheckpointStore("run", bucket, "one")
    running = trainer.spec().rebuild(place)
    running.train()
    assert list((tmp_path / "bucket" / "run" / "runs").glob("*/events*"))
    assert not (tmp_path / "run").exists()


def test_the_driver_and_other_ranks_write_nothing(make: Any, tmp_path: Path) -> None:
    trainer = make(arguments={"report_to": ["tensorboard"]})
    (tracker,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, TensorBoard)]
    trainer.log({"loss": 1.0})
    assert tracker.tb_writer is None
    assert trainer.args.report_to == ["tensorboard"]
    assert tracker in trainer.default_callbacks


def test_a_tracker_that_was_removed_stays_away(make: Any, sent: Any) -> None:
    from transformers.integrations import TensorBoardCallback

    trainer = make(arguments={"report_to": ["tensorboard"]})
    trainer.remove_callback(TensorBoardCallback)
    assert not any(isinstance(one, TensorBoard) for one in sent(trainer).callback_handler.callbacks)


def test_the_base_model_needs_no_card(make: Any, tiny_folder: Path) -> None:
    trainer = make(model=SentenceTransformer(tiny_folder, device="cpu"))
    trainer.save_model()
    assert "### Log" not in Path(trainer.args.output_dir, "README.md").read_text()


def test_files_are_described_too_and_streams_are_left_alone(make: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"one {i},two {i}\n" for i in range(5)))
    data = {
        "files": str(tmp_path / "rows.csv"),
        "stream": ROWS.to_iterable_dataset(),
        "hub": Dataset.from_dict(ROWS.to_dict()),
    }
    data["hub"].info.download_checksums = {"hf://datasets/org/name@0a1b2c/train.parquet": {}}
    trainer = make(train_dataset=data, arguments={"max_steps": 1})
    describe(trainer)
    files, stream, hub = trainer.model.model_card_data.train_datasets
    assert files["samples"][0] == ["one 0", "two 0"]
    assert files["counted"] == 5
    assert "samples" not in stream
    assert (hub["id"], hub["revision"], hub["size"]) == ("org/name", "0a1b2c", 12)
    trainer.model.model_card_data.set_train_dataset_sizes([5, 12, 12])
    assert (files["size"], stream["size"]) == (5, 12)
