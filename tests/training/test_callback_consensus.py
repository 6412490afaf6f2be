"""Two gloo processes: what a callback asks for on one of them happens on both, at the same step."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback

from processes import run_ranks
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.callbacks.callback_consensus import acts_in_steps
from ray_st.training.data.local_source import local_context
from ray_st.training.distributed import collectives
from ray_st.world import World

STEPS = 6
ROWS = Dataset.from_dict({"a": [f"one {i}" for i in range(24)], "b": [f"two {i * i}" for i in range(24)]})


class Asking(TrainerCallback):
    """Sets a flag on one rank in one hook, at a step."""

    def __init__(self, hook: str, flag: str, step: int = 3, rank: int = 0) -> None:
        self.hook, self.flag, self.step, self.rank = hook, flag, step, rank

    def ask(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == self.rank and state.global_step == self.step:
            setattr(control, self.flag, True)


def hooked(hook: str) -> type[Asking]:
    return type(f"Asking_{hook}", (Asking,), {hook: Asking.ask})


class Counting(TrainerCallback):
    """Has no hook in steps."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


class Clocked(SentenceTransformerTrainer):
    """Stops by a clock of its own, that of one rank being fast."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2 and self.args.process_index == 1:
            self.control.should_training_stop = True
        return super().compute_loss(*args, **kwargs)


LOGGED = {"logging_steps": 3}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 3}
SAVED = {"save_strategy": "steps", "save_steps": 3}
Case = tuple[str | None, str, dict[str, Any]]
CASES: dict[str, Case] = {
    "save": ("on_step_end", "should_save", {}),
    "save at the begin of a step": ("on_step_begin", "should_save", {}),
    "evaluate": ("on_step_end", "should_evaluate", {}),
    "log": ("on_step_end", "should_log", {}),
    "stop": ("on_step_end", "should_training_stop", {}),
    "stop the epoch": ("on_step_end", "should_epoch_stop", {"num_train_epochs": 2, "max_steps": -1}),
    "evaluate after a log": ("on_log", "should_evaluate", LOGGED),
    "stop after a log": ("on_log", "should_training_stop", LOGGED),
    "save after an evaluation": ("on_evaluate", "should_save", EVALUATED),
    "stop after an evaluation": ("on_evaluate", "should_training_stop", EVALUATED),
    "stop after a checkpoint": ("on_save", "should_training_stop", SAVED),
    "stop within a step": (
        "on_substep_end",
        "should_training_stop",
        {"gradient_accumulation_steps": 2},
    ),
    "save at the end": ("on_epoch_end", "should_save", {}),
    "a subclass": (None, "", {}),
}


def trainer(rank: int, folder: str, model: str, name: str) -> Any:
    hook, flag, arguments = CASES[name]
    options = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "logging_steps": 100,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        **arguments,
    }
    step = STEPS if hook == "on_epoch_end" else 2 if hook in ("on_step_begin", "on_substep_end") else 3
    opened = SentenceTransformer(model, device="cpu")
    made = (SentenceTransformerTrainer if hook else Clocked)(
        model=opened,
        args=SentenceTransformerTrainingArguments(f"{folder}/{name}/{rank}", **options),
        train_dataset=ROWS,
        eval_dataset=ROWS,
        loss=MultipleNegativesRankingLoss(opened),
        callbacks=[hooked(hook)(hook, flag, step)] if hook else [],
    )
    parts = {**made.data.train_specs(2), **made.data.eval_specs(2)}
    return made.spec().rebuild(local_context(parts, f"{folder}/{name}", World(rank, 2)))


def work(rank: int, folder: str, model: str) -> None:
    logging.disable(logging.WARNING)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}  # as Ray does
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, not used
    torch.set_num_threads(1)
    meeting = {"rank": rank, "world_size": 2, "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", **meeting)
    found = {}
    for name in CASES:
        running = trainer(rank, folder, model, name)
        running.train()
        dist.barrier()  # before the folder is looked at
        history = running.state.log_history
        found[name] = {
            "steps": running.state.global_step,
            "saved": running.worker.store.steps(),
            "evaluated": [entry["step"] for entry in history if "eval_loss" in entry],
            "logged": [entry["step"] for entry in history if "loss" in entry],
        }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("agreement")
    run_ranks(work, str(folder), str(tiny_folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


NOTHING = {"steps": STEPS, "saved": [], "evaluated": [], "logged": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("save", {"saved": [3]}),
        ("save at the begin of a step", {"saved": [3]}),
        ("evaluate", {"evaluated": [3]}),
        ("log", {"logged": [3]}),
        ("stop", {"steps": 3}),
        ("stop the epoch", {"steps": 9}),
        ("evaluate after a log", {"logged": [3, 6], "evaluated": [3]}),
        ("stop after a log", {"logged": [3], "steps": 3}),
        ("save after an evaluation", {"evaluated": [3, 6], "saved": [3]}),
        ("stop after an evaluation", {"evaluated": [3], "steps": 3}),
        ("stop after a checkpoint", {"saved": [3], "steps": 3}),
        ("stop within a step", {"steps": 3}),
        ("save at the end", {"saved": [6]}),
        ("a subclass", {"steps": 3}),
    ],
)
def test_the_ranks_do_what_one_of_them_is_asked_for(
    name: str, expected: dict[str, Any], ranks: list[Any]
) -> None:
    assert ranks[0][name] == ranks[1][name] == {**NOTHING, **expected}


@pytest.mark.parametrize(
    ("callbacks", "least", "most"),
    [
        ([], 0, 0),
        ([EarlyStoppingCallback()], 0, 0),  # it decides by what is the same everywhere
        ([Counting()], 2, 4),  # once after its only hook, and at the end of the epoch
        ([hooked("on_step_end")("", "", -1)], STEPS, STEPS + 4),
    ],
    ids=["none", "transformers'", "rare", "in steps"],
)
def test_ranks_talk_no_more_than_they_must(
    callbacks: list[Any],
    least: int,
    most: int,
    tmp_path: Path,
    tiny_model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def summed(values: Sequence[float]) -> list[float]:
        if len(values) == 5:
            asked.append(1)
        return list(values)

    best = {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    options = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "report_to": "none",
    }
    made = SentenceTransformerTrainer(
        model=tiny_model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path), logging_steps=100, use_cpu=True, **options, **best
        ),
        train_dataset=ROWS,
        eval_dataset=ROWS,
        loss=MultipleNegativesRankingLoss(tiny_model),
        callbacks=callbacks,
    )
    running = made.spec().rebuild(local_context(made.data.train_specs(1), tmp_path))
    monkeypatch.setattr(collectives, "sum_of_numbers", summed)
    begin = type(running.callback_handler).on_train_begin

    def begun(handler: Any, *args: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(collectives, "current_world", lambda: World(0, 2))
            return begin(handler, *args)

    monkeypatch.setattr(type(running.callback_handler), "on_train_begin", begun)
    running.train()
    assert least <= len(asked) <= most


def test_hooks_on_the_object_count() -> None:
    callback = Counting()
    assert not acts_in_steps(callback)
    hook: Callable[..., None] = lambda *args, **kwargs: None  # noqa: E731
    callback.on_step_end = hook  # type: ignore[method-assign]
    assert acts_in_steps(callback)
