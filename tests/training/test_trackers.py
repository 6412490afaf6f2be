"""Trackers by themselves: opened, continued, closed; the real ones, but for CodeCarbon."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback, integration_utils

from ray_st.models.card_facts import Emissions
from ray_st.training.trackers import (
    CodeCarbon,
    MLflow,
    TensorBoard,
    Tracker,
    TrackerError,
    Wandb,
    make_trackers,
)

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
    mlflow = pytest.importorskip("mlflow")
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


def test_wandb_continues_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    args = arguments(tmp_path)
    names: list[str] = []
    for known in (False, True):
        tracker = Wandb()
        names.append(tracker.open(args, 0, names[0] if known else None))
        tracker.on_train_begin(args, TrainerState(), CONTROL, model=SimpleNamespace(num_parameters=lambda: 3))
        tracker.on_log(args, TrainerState(global_step=1), CONTROL, logs={"loss": 1.0})
        tracker.close(failed=False)
        tracker.on_log(args, TrainerState(global_step=2), CONTROL, logs={"loss": 1.0})  # closed
        assert tracker._wandb.run is None
    assert names[0] == names[1]
    kept = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert all(name.endswith(names[0]) for name in kept)


class FakeWandb:
    """As much of W&B as is used to open and close it."""

    Error = type("Error", (Exception,), {})
    refuses = False

    def __init__(self) -> None:
        self.run: Any = None
        self.calls: list[Any] = []

    def init(self, **options: Any) -> None:
        if self.refuses:
            raise self.Error("no key")
        self.calls.append(options)
        self.run = SimpleNamespace(id=options.get("id", "new"))

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
    for known, options in ((None, {}), ("new", {"id": "new", "resume": "allow"})):
        tracker = Wandb()
        assert tracker.open(arguments(tmp_path), 0, known) == "new"
        tracker.close(failed=known is None)
        assert wandb.calls[-2:] == [{**common, **options}, int(known is None)]


def test_a_run_of_the_users_own_loop_is_joined_and_left_open(wandb: FakeWandb, tmp_path: Path) -> None:
    wandb.run = SimpleNamespace(id="theirs")
    tracker = Wandb()
    assert tracker.open(arguments(tmp_path), 0, None) == "theirs"
    tracker.close(failed=False)
    assert wandb.calls == []
    assert wandb.run.id == "theirs"


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
