"""Trackers by themselves: opened, continued, closed; the real ones, but for CodeCarbon."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback, WandbCallback, integration_utils

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.models.card.run_facts import Emissions
from ray_st.training.callbacks.trackers import (
    FLUSHED_S,
    CodeCarbon,
    MLflow,
    TensorBoard,
    Tracker,
    TrackerError,
    Wandb,
    make_trackers,
)
from ray_st.training.data.local_source import local_context

CONTROL = TrainerControl()


def arguments(folder: Path) -> Any:
    return SimpleNamespace(
        output_dir=str(folder), run_name=None, process_index=0, to_dict=dict, to_json_string=str
    )


def log(tracker: Any, step: int, **figures: float) -> None:
    tracker.on_log(None, TrainerState(global_step=step), CONTROL, logs=figures)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


@pytest.fixture(autouse=True)
def _trackers_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other tests are spared W&B and MLflow; see tests/conftest.py."""
    monkeypatch.delenv("DISABLE_MLFLOW_INTEGRATION")
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_ours_replace_those_that_know_nothing_of_restarts() -> None:
    assert make_trackers(["tensorboard"]) == [TensorBoard]
    assert issubclass(TensorBoard, TensorBoardCallback)
    assert make_trackers([]) == []
    assert isinstance(TensorBoard(), Tracker)
    with pytest.raises(ValueError, match="nothing is not supported"):
        make_trackers(["nothing"])


def test_tensorboard_goes_on_in_the_same_folder_and_hides_what_is_done_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first = TensorBoard()
    folder = first.open(arguments(tmp_path), 0, None)
    for step in (1, 2, 3):
        log(first, step, loss=float(step))
    again = TensorBoard()
    assert again.open(arguments(tmp_path), 2, folder) == folder
    log(again, 3, loss=30.0)
    for tracker in (first, again):
        tracker.close(failed=False)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [Path(folder).name]
    assert scalars(tmp_path / folder) == {"train/loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_tensorboard_writes_nothing_unless_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = TensorBoard()
    log(tracker, 1, loss=1.0)
    tracker.close(failed=False)
    assert not list(tmp_path.iterdir())


def test_the_users_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    tracker = TensorBoard()
    tracker.open(arguments(tmp_path / "run"), 0, None)
    log(tracker, 1, loss=1.0)
    tracker.close(failed=False)
    assert list((tmp_path / "mine").iterdir())
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own use of SQLAlchemy
def test_mlflow_continues_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/flow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sentences")
    args = arguments(tmp_path)
    runs = []
    for epochs, steps, known in ((1, (1, 2), False), (3, (2, 3), True)):
        tracker = MLflow()
        args.to_dict = lambda epochs=epochs: {"num_train_epochs": epochs}
        runs.append(tracker.open(args, steps[0], runs[0] if known else None))
        state = TrainerState()
        tracker.on_train_begin(args, state, CONTROL)
        for step in steps:
            tracker.on_log(args, TrainerState(global_step=step), CONTROL, logs={"loss": step / 2})
        tracker.on_train_end(args, state, CONTROL)
        tracker.close(failed=not known)
        log(tracker, 9, loss=0.0)  # closed
        status = mlflow.get_run(runs[0]).info.status
        assert status == ("FINISHED" if known else "FAILED")
    assert runs[0] == runs[1]
    run = mlflow.get_run(runs[0])
    assert run.data.params == {"num_train_epochs": "1"}
    history = mlflow.tracking.MlflowClient().get_metric_history(runs[0], "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (1, 0.5),
        (2, 1.0),
        (2, 1.0),
        (3, 1.5),
    ]
    assert mlflow.active_run() is None


def wandb_rows(folder: Path) -> list[list[dict[str, Any]]]:
    """The rows of each segment that W&B wrote, as ``wandb sync`` will send them; its files are LevelDB's logs."""
    from wandb.proto import wandb_internal_pb2 as protocol

    segments = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        rows = []
        for text in chunks(file.read_bytes()):
            record = protocol.Record()
            record.ParseFromString(text)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
                )
        segments.append(rows)
    return segments


def chunks(data: bytes, block: int = 32768) -> Iterator[bytes]:
    place, begun = 7, b""  # after the header
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        begun += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield begun
            begun = b""


ALONE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""Trackers that ask nothing of the network."""


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            time.sleep(5 * FLUSHED_S)  # a step of a real model takes as long
            os.kill(os.getpid(), signal.SIGKILL)


def segment(folder: str, model: str, kill_at: int) -> None:
    """Trains on a worker of its own, from the newest checkpoint."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        del os.environ[name]  # MLflow tells child processes of its records
    os.environ |= ALONE
    opened = SentenceTransformer(model, device="cpu")
    made = SentenceTransformerTrainer(
        model=opened,
        args=SentenceTransformerTrainingArguments(
            folder,
            max_steps=8,
            per_device_train_batch_size=2,
            logging_steps=1,
            save_strategy="steps",
            save_steps=3,
            report_to=["wandb", "mlflow"],
            use_cpu=True,
        ),
        train_dataset={"a": [f"one {i}" for i in range(16)], "b": [f"two {i * i}" for i in range(16)]},
        loss=MultipleNegativesRankingLoss(opened),
        callbacks=[KillAt(kill_at)],
    )
    worker = made.spec().rebuild(local_context(made.data.train_specs(1), folder))
    newest = worker.worker.store.newest()
    worker.train(resume_from_checkpoint=None if newest is None else str(Path(folder) / newest.name))


@pytest.mark.slow
def test_a_killed_worker_leaves_one_run_with_all_its_steps(tmp_path: Path, tiny_folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    for kill_at, code in ((5, -signal.SIGKILL), (-1, 0)):
        process = spawn.Process(target=segment, args=(str(tmp_path), str(tiny_folder), kill_at))
        process.start()
        process.join()
        assert process.exitcode == code
    killed, resumed = wandb_rows(tmp_path)
    seen = [[row["train/global_step"] for row in rows if "train/loss" in row] for rows in (killed, resumed)]
    assert seen == [[1, 2, 3, 4, 5], [4, 5, 6, 7, 8]]
    again = {row["_step"]: row["train/loss"] for row in resumed if "train/loss" in row}
    before = {row["_step"]: row["train/loss"] for row in killed}
    assert {step: before[step] for step in again if step in before} == {
        step: loss for step, loss in again.items() if step in before
    }
    assert sorted(before | again) == list(range(8))  # W&B's own count goes on, too
    names = {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert len(names) == 1

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute(
            "select run_uuid, step, value from metrics where key = 'loss' order by step"
        ).fetchall()
    assert len({run for run, _, _ in rows}) == 1
    assert sorted({step for _, step, _ in rows}) == list(range(1, 9))
    assert len({(step, value) for _, step, value in rows}) == 8  # done again, the same


def test_wandb_continues_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # it remembers that other tests' runs were disabled
    args = arguments(tmp_path)
    names: list[Any] = []
    for known in (False, True):
        tracker = Wandb()
        names.append(tracker.open(args, 0, names[0] if known else None))
        tracker.on_train_begin(args, TrainerState(), CONTROL, model=SimpleNamespace(num_parameters=lambda: 3))
        tracker.on_log(args, TrainerState(global_step=1), CONTROL, logs={"loss": 1.0})
        tracker.close(failed=False)
        tracker.on_log(args, TrainerState(global_step=2), CONTROL, logs={"loss": 1.0})  # closed
        assert tracker._wandb.run is None
    assert names[0]["id"] == names[1]["id"]
    assert [name["step"] for name in names] == [1, 2]
    kept = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert all(f"-{names[0]['id']}" in name for name in kept)  # within a second of another it gets a number


class FakeWandb:
    """As much of W&B as is used to open and close it."""

    Error = type("Error", (Exception,), {})
    Settings = SimpleNamespace(model_fields=())
    refuses = False

    def __init__(self) -> None:
        self.run: Any = None
        self.calls: list[Any] = []

    def init(self, **options: Any) -> None:
        if self.refuses:
            raise self.Error("no key")
        self.calls.append(options)
        self.run = SimpleNamespace(id=options.get("id", "new"), step=0, offline=False)

    def finish(self, exit_code: int) -> None:
        self.calls.append(exit_code)
        self.run = None


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: True)
    for name in ("WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_wandb_is_told_which_run_goes_on(wandb: FakeWandb, tmp_path: Path) -> None:
    common = {"project": "huggingface", "name": None, "dir": str(tmp_path)}
    again = {"id": "new", "resume": "allow"}
    for known, options in ((None, {}), ("new", again), ({"id": "new", "step": 7}, again)):
        tracker = Wandb()
        assert tracker.open(arguments(tmp_path), 0, known) == {"id": "new", "step": 0}
        tracker.close(failed=known is None)
        assert wandb.calls[-2:] == [{**common, **options}, int(known is None)]


def test_a_run_of_the_users_own_loop_is_joined_and_left_open(wandb: FakeWandb, tmp_path: Path) -> None:
    wandb.run = SimpleNamespace(id="theirs", step=0, offline=True)
    tracker = Wandb()
    assert tracker.open(arguments(tmp_path), 0, None)["id"] == "theirs"
    tracker.close(failed=False)
    assert wandb.calls == []
    assert wandb.run.id == "theirs"


def test_a_process_of_wandb_that_does_not_answer_ends_no_training(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        id, offline, asked = "busy", False, 0

        @property
        def step(self) -> int:
            self.asked += 1
            if self.asked == 2:
                raise TimeoutError
            return self.asked

    wandb.run = Busy()
    monkeypatch.setattr(WandbCallback, "on_log", lambda *args, **kwargs: None)
    tracker = Wandb()
    mark = tracker.open(arguments(tmp_path), 0, None)
    steps = []
    for _ in range(2):
        log(tracker, 1, loss=1.0)
        steps.append(mark["step"])
    assert steps == [1, 3]


def test_a_refusal_is_explained(wandb: FakeWandb, tmp_path: Path) -> None:
    wandb.refuses = True
    with pytest.raises(TrackerError, match=r"no key Log in on the nodes, set WANDB_MODE=offline"):
        Wandb().open(arguments(tmp_path), 0, None)


class FakeMLflow(SimpleNamespace):
    """As much of MLflow as is used to open and close it."""

    def __init__(self) -> None:
        validation = SimpleNamespace(MAX_PARAM_VAL_LENGTH=100, MAX_PARAMS_TAGS_PER_BATCH=10)
        super().__init__(utils=SimpleNamespace(validation=validation), run=None, calls=[], uri=None)

    def is_tracking_uri_set(self) -> bool:
        return self.uri is not None

    def set_tracking_uri(self, uri: str) -> None:
        self.uri = uri

    def active_run(self) -> Any:
        return self.run

    def start_run(self, run_id: str | None, run_name: str | None) -> None:
        self.calls.append((run_id, run_name))
        self.run = SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new"))

    def flush_async_logging(self) -> None:
        self.calls.append("flushed")

    def end_run(self, status: str) -> None:
        self.calls.append(status)
        self.run = None


def test_mlflow_is_told_which_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setattr(integration_utils, "is_mlflow_available", lambda: True)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for known in (None, "new"):
        tracker = MLflow()
        assert tracker.open(arguments(tmp_path), 0, known) == "new"
        tracker.close(failed=known is None)
        assert fake.calls[-3:] == [(known, None), "flushed", "FAILED" if known is None else "FINISHED"]
        (tmp_path / "mlflow.db").touch()
    assert fake.uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_mlflow_starts_anew_where_its_records_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", fake := FakeMLflow())
    monkeypatch.setattr(integration_utils, "is_mlflow_available", lambda: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MLflow().open(arguments(tmp_path), 0, "elsewhere")
    assert fake.calls == [(None, None)]


class Meter:
    """As much of CodeCarbon's tracker as is used; the real one asks the network where it is."""

    made: list[Meter] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        self.options, self.running = options, False
        Meter.made.append(self)

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def _prepare_emissions_data(self) -> Any:
        return SimpleNamespace(
            emissions=0.25,
            energy_consumed=1.0,
            duration=1800.0,
            on_cloud="N",
            cpu_model="a CPU",
            gpu_model=None,
            ram_total_size=64.0,
        )


@pytest.fixture
def codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    Meter.made = []
    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(EmissionsTracker=Meter))  # type: ignore[arg-type]
    monkeypatch.setattr(integration_utils, "is_codecarbon_available", lambda: True)


def test_codecarbon_measures_where_it_is_open(codecarbon: None, tmp_path: Path) -> None:
    tracker, args = CodeCarbon(), arguments(tmp_path)
    tracker.on_init_end(args, TrainerState(), CONTROL)
    tracker.on_train_begin(args, TrainerState(), CONTROL)
    assert Meter.made == []
    assert tracker.measured() is None
    assert tracker.open(args, 0, None) is None
    tracker.on_train_begin(args, TrainerState(), CONTROL)
    (meter,) = Meter.made
    assert meter.running
    assert meter.options["save_to_file"]
    assert tracker.measured() == Emissions(0.25, 1.0, 0.5, False, "a CPU", "", 64.0)
    tracker.close(failed=False)
    assert not meter.running
    assert tracker.measured() is None


def test_emissions_add_up() -> None:
    one, other = Emissions(0.25, 1.0, 0.5, cpu="a"), Emissions(0.5, 2.0, 1.5, cpu="b", gpu="c")
    assert Emissions.together([one, None, other]) == Emissions(0.75, 3.0, 1.5, cpu="a")
    assert one.then(other) == Emissions(0.75, 3.0, 2.0, cpu="b", gpu="c")
    assert Emissions.together([None]) is None
    assert other.header()["emissions"] == 500.0
    assert "hardware_used" not in one.header()
