"""Evaluation beside training, with a desk in this process: figures come late and land where they belong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from eval_desk import Desk, history, parts_of
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.data.plan import Plan
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import CoSENTLoss, MatryoshkaLoss, MultipleNegativesRankingLoss
from ray_st.training.async_eval.client import MOST_AWAITED, EvaluationError
from ray_st.training.async_eval.protocol import SlicedBatchSource, sees_whole_batches
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.local_source import build_here, local_context
from ray_st.world import World

WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query"]
ROWS = Dataset.from_dict(
    {
        "a": [f"{WORDS[i % 8]} {i}" for i in range(24)],
        "b": [f"{WORDS[i * 3 % 8]} {i * i}" for i in range(24)],
    }
)


def evaluator() -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(
        ROWS["a"][:9], ROWS["b"][:9], [i * 5 % 9 / 9 for i in range(9)], name="dev"
    )


def trainer_of(folder: Path, tiny: Path, **options: Any) -> SentenceTransformerTrainer:
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of a loop in this process
    model = SentenceTransformer(tiny, device="cpu")
    arguments = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "learning_rate": 0.003,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "report_to": "none",
        "eval_on": "background",
        **options.pop("arguments", {}),
    }
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=ROWS,
        eval_dataset=options.pop("eval_dataset", ROWS.select(range(10))),
        loss=MultipleNegativesRankingLoss(model),
        evaluator=options.pop("evaluator", evaluator()),
        **options,
    )


def run(folder: Path, tiny: Path, late: int | None, desk: Desk | None = None, **options: Any) -> Any:
    """A run, evaluated beside training by a desk that answers so late, or as workers do."""
    options["arguments"] = {
        **({"eval_on": "workers"} if late is None else {}),
        **options.get("arguments", {}),
    }
    resume = options.pop("resume", None)
    if late is not None and desk is None:
        same = {name: value for name, value in options.items() if name != "callbacks"}
        desk = Desk(trainer_of(folder, tiny, **copy.copy(same)), folder, late)
    trainer = trainer_of(folder, tiny, **options)
    running = trainer.spec().rebuild(local_context(trainer.data.train_specs(1), folder, eval_queue=desk))
    running.desk = desk
    running.train(resume_from_checkpoint=resume)
    return running


def check_same_history(found: Any, expected: Any) -> None:
    for mine, theirs in zip(history(found), history(expected), strict=True):
        assert list(mine) == list(theirs)
        assert mine == pytest.approx(theirs, abs=1e-6)


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_dev_spearman_cosine",
    "greater_is_better": True,
    "save_total_limit": 1,
}


class Seen(TrainerCallback):
    """Notes which figures were shown as those of which step."""

    def __init__(self) -> None:
        self.evaluations: dict[int, float] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.evaluations[state.global_step] = metrics["eval_dev_spearman_cosine"]


@pytest.mark.parametrize("late", [0, 5, 99])
def test_figures_history_and_best_model_are_those_of_evaluation_by_workers(
    late: int, tiny_folder: Path, tmp_path: Path
) -> None:
    expected = run(tmp_path / "workers", tiny_folder, None, arguments=BEST, callbacks=[Seen()])
    found = run(tmp_path / "background", tiny_folder, late, arguments=BEST, callbacks=[Seen()])
    check_same_history(found, expected)
    assert found.own_callbacks()[0].evaluations == pytest.approx(expected.own_callbacks()[0].evaluations)
    assert found.state.best_global_step == expected.state.best_global_step
    assert Path(found.state.best_model_checkpoint).name == Path(expected.state.best_model_checkpoint).name
    assert checkpoints(tmp_path / "background") == checkpoints(tmp_path / "workers")
    for name, tensor in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor)
    scores = [score.metrics for score in found.model.model_card_data.scores]
    assert scores == [score.metrics for score in expected.model.model_card_data.scores]


@pytest.mark.slow
def test_weights_between_checkpoints_are_kept_until_they_are_evaluated(
    tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = {"eval_steps": 1, "save_steps": 3, "save_total_limit": 1, "eval_on_start": True}
    expected = run(tmp_path / "workers", tiny_folder, None, arguments=arguments)
    found = run(tmp_path / "background", tiny_folder, 2, arguments=arguments)
    check_same_history(found, expected)
    assert [entry["step"] for entry in history(found) if "eval_loss" in entry] == [*range(13)]
    folders = {order.step: Path(order.store.path).name for order in found.desk.ordered}
    assert folders == {step: "evaluating" if step % 3 or not step else "background" for step in range(13)}
    assert not list((tmp_path / "background" / "evaluating").iterdir())
    assert checkpoints(tmp_path / "background") == [12]


@pytest.mark.parametrize("bf16", [False, True])
def test_figures_are_those_of_the_weights_in_training_whatever_the_folder_stores(
    bf16: bool, tiny_folder: Path, tmp_path: Path, fresh_accelerator: None
) -> None:
    SentenceTransformer(tiny_folder, device="cpu").to(torch.bfloat16).save(tmp_path / "stored")
    arguments = {"max_steps": 2, "eval_steps": 1, "save_steps": 2, "bf16": bf16, "use_cpu": True}
    expected = run(tmp_path / "workers", tmp_path / "stored", None, arguments=arguments)
    found = run(tmp_path / "background", tmp_path / "stored", 0, arguments=arguments)
    check_same_history(found, expected)


def test_a_checkpoint_is_not_deleted_before_it_is_evaluated(tiny_folder: Path, tmp_path: Path) -> None:
    class Watch(TrainerCallback, LoopCallback):
        def on_checkpoint(self, state: Any, settled: Any) -> None:
            seen.append(checkpoints(tmp_path))

    seen: list[list[int]] = []
    arguments = {"save_steps": 1, "eval_steps": 3, "save_total_limit": 2}
    run(tmp_path, tiny_folder, 99, arguments=arguments, callbacks=[Watch()])
    assert seen[4:9] == [[3, 5], [3, 6], [3, 6, 7], [3, 6, 8], [6, 9]]
    assert checkpoints(tmp_path) == [9, 12]


def test_several_datasets_are_entered_as_the_workers_would(tiny_folder: Path, tmp_path: Path) -> None:
    options = {"eval_dataset": {"one": ROWS.select(range(10)), "two": ROWS.select(range(10, 17))}}
    expected = run(tmp_path / "workers", tiny_folder, None, **options)
    found = run(tmp_path / "background", tiny_folder, 3, **options)
    check_same_history(found, expected)
    assert {"eval_one_loss", "eval_two_loss", "eval_dev_spearman_cosine"} <= {
        name for entry in history(found) for name in entry
    }


def test_early_stopping_comes_late_but_not_by_more_than_is_promised(
    tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = {**BEST, "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "eval_loss"}
    stopped = {}
    for late in (None, 0, 99):
        folder = tmp_path / str(late)
        stop = [EarlyStoppingCallback(1)]
        trainer = run(folder, tiny_folder, late, arguments=arguments, callbacks=stop)
        stopped[late] = trainer.state.global_step
        steps = [entry["step"] for entry in history(trainer) if "eval_loss" in entry]
        assert steps == [*range(1, stopped[late] + 1)]
    assert stopped[None] < stopped[0] <= stopped[99] <= stopped[None] + MOST_AWAITED
    assert stopped[99] < 12


class Raising(EmbeddingSimilarityEvaluator):
    def __call__(self, model: Any, *args: Any, **options: Any) -> Any:
        if options["steps"] == 6:
            raise ArithmeticError("no figures today")
        return super().__call__(model, *args, **options)


def test_an_evaluation_that_fails_ends_the_run_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    bad = Raising(ROWS["a"][:3], ROWS["b"][:3], [0.0, 0.5, 1.0], name="dev")
    with pytest.raises(EvaluationError, match=r"step 6 beside training failed.*\n.*no figures today"):
        run(tmp_path, tiny_folder, 1, evaluator=bad)
    assert 6 in checkpoints(tmp_path)


class Break(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedError


@pytest.mark.slow
@pytest.mark.parametrize("survives", [True, False], ids=["restarted workers", "another run"])
@pytest.mark.parametrize("at", [3, 7, 9])
def test_a_restart_neither_loses_nor_doubles_figures(
    survives: bool, at: int, tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = {"eval_steps": 1, "save_steps": 4, "save_total_limit": 1}
    expected = run(tmp_path / "unbroken", tiny_folder, None, arguments=arguments)
    folder = tmp_path / "broken"
    desk = Desk(trainer_of(folder, tiny_folder, arguments=arguments), folder, 3)
    with pytest.raises(InterruptedError):
        run(folder, tiny_folder, 3, desk, arguments=arguments, callbacks=[Break(at)])
    if not survives:
        desk = Desk(trainer_of(folder, tiny_folder, arguments=arguments), folder, 3)
    newest = str(folder / f"checkpoint-{at // 4 * 4}") if at > 4 else None
    found = run(folder, tiny_folder, 3, desk, arguments=arguments, resume=newest)
    ours = [entry for entry in history(found) if "train_loss" not in entry]
    theirs = [entry for entry in history(expected) if "train_loss" not in entry]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-6)


@pytest.mark.slow
def test_figures_whose_weights_are_gone_are_left_out_aloud(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"eval_steps": 1, "save_steps": 4}
    with pytest.raises(InterruptedError):
        run(tmp_path, tiny_folder, 99, arguments=arguments, callbacks=[Break(4)])
    for folder in (tmp_path / "evaluating").iterdir():
        (folder / "manifest.json").unlink()
        for file in [*folder.rglob("*")][::-1]:
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()
    newest = str(tmp_path / "checkpoint-4")
    run(tmp_path, tiny_folder, 99, arguments=arguments, resume=newest)
    assert "the evaluation of step 3 was outstanding; it is left out" in capsys.readouterr().out
    run(tmp_path / "workers", tiny_folder, None, arguments=arguments, resume=newest)
    assert "the evaluations of steps [3, 4] were outstanding" in capsys.readouterr().out


def test_a_single_process_without_ray_refuses(tiny_folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, tiny_folder)
    running = trainer.spec().rebuild(local_context(trainer.data.train_specs(1), tmp_path))
    with pytest.raises(ValueError, match=r'eval_on="background" needs a run on Ray'):
        running.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_on": "nobody"}, "nobody is not a valid EvalOn"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, 'save_strategy="best". Use'),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type='reduce_lr_on_plateau'"),
        ({"eval_resources": {"CPU": 0}}, r"eval_resources\['CPU'\] must be a positive number; got 0"),
        ({"eval_on": "workers", "eval_resources": {"CPU": 1}}, "eval_resources apply to"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"output_dir": str(tmp_path), "eval_on": "background", "eval_strategy": "steps", **arguments}
    with pytest.raises(ValueError, match=message):
        SentenceTransformerTrainingArguments(**given)


@pytest.mark.parametrize("late", [None, 99])
def test_a_best_step_without_a_checkpoint_is_not_gone_back_to(
    late: int | None, tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = {**BEST, "eval_steps": 1, "save_steps": 5, "metric_for_best_model": "eval_when"}

    def when(model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        return {"when": -abs(steps - 11)}

    found = run(tmp_path, tiny_folder, late, arguments=arguments, evaluator=when)
    assert found.state.best_global_step == 11
    assert found.state.best_model_checkpoint == str(tmp_path / "checkpoint-10")


# ---- the figures of several ranks, found by one process ----


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_slices_are_the_shares_of_ranks(ranks: int, tiny_folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, tiny_folder)
    source = build_here(parts_of(trainer)["eval:"]).source
    plan: Plan = source.piece(0, 0).plan
    sliced = SlicedBatchSource(source, ranks)
    expected = [
        share
        for step in range(len(plan))
        for rank in range(ranks)
        if len(share := plan.cut(step, World(rank, ranks)))
    ]
    assert sliced.steps == len(expected)
    for step, share in enumerate(expected):
        np.testing.assert_array_equal(sliced.piece(0, 0).batch(step), share)


@pytest.mark.parametrize(
    ("make", "whole"),
    [
        (MultipleNegativesRankingLoss, False),
        (lambda model: MultipleNegativesRankingLoss(model, gather_across_devices=True), True),
        (
            lambda model: MatryoshkaLoss(
                model, MultipleNegativesRankingLoss(model, gather_across_devices=True), [16, 8]
            ),
            True,
        ),
        (CoSENTLoss, False),
        (nn.Identity, False),
    ],
)
def test_losses_that_gather_see_whole_batches(
    make: Callable[[Any], Any], whole: bool, tiny_model: Any
) -> None:
    assert sees_whole_batches(make(tiny_model)) == whole


def test_an_evaluation_whose_weights_find_no_room_is_left_out(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seal = CheckpointStore.seal

    def full(self: Any, folder: Path, **facts: Any) -> Any:
        if folder.parent.name == "evaluating" and folder.name == "checkpoint-4":
            raise OSError(28, "No space left on device")
        return seal(self, folder, **facts)

    monkeypatch.setattr(CheckpointStore, "seal", full)
    found = run(tmp_path, tiny_folder, 0, arguments={"eval_steps": 2, "save_steps": 3, "max_steps": 6})
    assert "weights of step 4 could not be written" in capsys.readouterr().out
    assert [entry["step"] for entry in history(found) if "eval_loss" in entry] == [2, 6]
    assert not list((tmp_path / "evaluating").iterdir())
