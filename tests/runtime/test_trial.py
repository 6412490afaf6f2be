"""A trial's folder and its reports, without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import RunConfig
from transformers import TrainerControl, TrainerState, TrainingArguments

from ray_st.runtime.tune.search_home import forget_unknown, search_store, taken
from ray_st.runtime.tune.trial_loop import Reports, TrialContext, logged
from ray_st.study.search_settings import check_settings
from ray_st.training.checkpoint.lease import RunInUse
from ray_st.training.checkpoint.store import CheckpointStore


def kit(store: CheckpointStore, search_id: str) -> TrialContext:
    nothing: Any = None
    return TrialContext(nothing, nothing, nothing, store, search_id)


def test_a_trial_passes_over_the_checkpoints_of_an_earlier_search(tmp_path: Path) -> None:
    earlier, now = (kit(CheckpointStore(str(tmp_path)), name).trial_store(0) for name in ("s-1", "s-2"))
    earlier.seal(earlier.begin(5))
    assert earlier.path == now.path
    assert earlier.newest(earlier.run_id) is not None
    assert now.newest(now.run_id) is None


def test_searches_of_a_name_share_no_folder_of_a_storage(tmp_path: Path) -> None:
    def path(search_id: str, run_config: RunConfig | None) -> str:
        return search_store(run_config, tmp_path / "out" / "s", search_id).path

    there = RunConfig(storage_path=str(tmp_path / "storage"))
    assert path("1", there) == f"{tmp_path}/storage/searches/s/1"
    assert path("2", there) == f"{tmp_path}/storage/searches/s/2"
    assert path("", there) == f"{tmp_path}/storage/searches/s"  # begun by an earlier version
    named = RunConfig(storage_path=str(tmp_path / "storage"), name="mine")
    assert path("1", named) == f"{tmp_path}/storage/mine/s/1"
    assert path("1", None) == f"{tmp_path}/out/s"


def test_a_search_that_moves_uses_no_checkpoint_of_a_trial_it_does_not_know(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path))
    trials = [kit(store, "s-1").trial_store(number) for number in range(4)]
    for trial in trials:
        trial.seal(trial.begin(5))
    forget_unknown(store, 2)
    assert store.numbered("run-") == [0, 1]
    assert [trial.steps() for trial in trials] == [[5], [5], [], []]


def test_the_storage_is_named_where_it_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "s").mkdir()
    there = RunConfig(storage_path=str(tmp_path / "file"))
    with (
        pytest.raises(ValueError, match=r"file/searches/s in the storage cannot be used"),
        taken(tmp_path / "s", there),
    ):
        pass


def test_of_two_heads_the_second_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "s").mkdir(parents=True)
    there = RunConfig(storage_path=str(tmp_path / "storage"))
    with taken(tmp_path / "one" / "s", there) as place:
        check_settings(place.path, {"seed": 1})
        with place.copying():
            place.check()
            with (
                pytest.raises(RunInUse, match="storage/searches/s is in use"),
                taken(tmp_path / "two" / "s", there),
            ):
                pass
    with taken(tmp_path / "two" / "s", there) as place:
        assert check_settings(place.path, {"seed": 1})
        assert (place.path / "search.json").read_text() == (tmp_path / "one/s/search.json").read_text()


def test_a_storage_that_is_the_folder_itself_needs_no_copy(tmp_path: Path) -> None:
    folder = tmp_path / "searches" / "s"
    folder.mkdir(parents=True)
    with taken(folder, RunConfig(storage_path=str(tmp_path))) as place, place.copying():
        assert not place.mirrors
        assert place.lease is place.here
    with taken(folder, None) as place:
        assert not place.mirrors


# ---- what it reports ----

LOG: list[dict[str, Any]] = [
    {"loss": 0.5, "step": 1, "epoch": 0.1},
    {"eval_a_loss": 0.4, "eval_runtime": 1.0, "step": 3, "epoch": 0.25},
    {"eval_b_loss": 0.3, "step": 3, "epoch": 0.25},
    {"eval_a_loss": 0.2, "eval_b_loss": 0.1, "step": 6, "epoch": 0.5},
]


def trainer_at(step: int, log: list[dict[str, Any]]) -> Any:
    """A trainer that has come to a step."""
    args = SimpleNamespace(
        global_train_batch_size=None, per_device_train_batch_size=4, gradient_accumulation_steps=1
    )
    state = TrainerState(global_step=step, max_steps=12, log_history=log)
    return SimpleNamespace(
        args=args,
        state=state,
        worker=SimpleNamespace(world=SimpleNamespace(size=2)),
        saved=[],
        add_callback=lambda callback: None,
        callback_handler=SimpleNamespace(callbacks=[]),
    )


def begin(reports: Reports, trainer: Any, tmp_path: Path) -> None:
    reports.attach(trainer)
    args = TrainingArguments(str(tmp_path), report_to=[])
    reports.on_train_begin(args, trainer.state, TrainerControl())


def test_the_evaluations_of_a_log_are_those_of_all_datasets() -> None:
    assert logged(LOG) == [
        (3, {"eval_a_loss": 0.4, "eval_runtime": 1.0, "eval_b_loss": 0.3, "epoch": 0.25}),
        (6, {"eval_a_loss": 0.2, "eval_b_loss": 0.1, "epoch": 0.5}),
    ]
    assert logged(LOG[:1]) == []


@pytest.mark.parametrize(("known", "told"), [(0, [1, 2]), (1, [2]), (2, [])])
def test_what_the_log_has_and_the_study_lacks_is_reported_first(
    known: int, told: list[int], tmp_path: Path
) -> None:
    sent: list[dict[str, Any]] = []
    trainer = trainer_at(6, LOG)
    begin(Reports(sent.append, None, known), trainer, tmp_path)
    assert [report["evaluation"] for report in sent] == told
    if told:
        assert sent[-1] == {
            "evaluation": 2,
            "step": 6,
            "ended": False,
            "samples": 48,
            "metrics": {"eval_a_loss": 0.2, "eval_b_loss": 0.1, "epoch": 0.5},
        }


def test_a_late_report_is_what_the_first_would_have_been(tmp_path: Path) -> None:
    now: list[dict[str, Any]] = []
    trainer = trainer_at(6, LOG)
    reports = Reports(now.append)
    reports.attach(trainer)
    reports(trainer, {"eval_a_loss": 0.2, "eval_b_loss": 0.1, "epoch": 0.5})
    late: list[dict[str, Any]] = []
    begin(Reports(late.append, None, 1), trainer, tmp_path)
    assert late == now


def test_a_trial_that_is_told_to_stop_tells_no_more(tmp_path: Path) -> None:
    sent: list[int] = []

    def send(report: dict[str, Any]) -> None:
        sent.append(report["evaluation"])
        reports.stopped = True

    reports = Reports(send)
    begin(reports, trainer_at(6, LOG), tmp_path)
    assert sent == [1]


def test_where_trials_wait_the_evaluation_before_the_first_step_is_not_told_of(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    log = [{"eval_loss": 1.0, "step": 0}, *LOG]
    begin(Reports(sent.append, lambda number: True), trainer_at(6, log), tmp_path)
    assert [(report["evaluation"], report["step"]) for report in sent] == [(2, 3), (3, 6)]
