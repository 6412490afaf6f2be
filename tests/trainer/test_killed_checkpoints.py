"""A process killed at each phase of a checkpoint written beside training: the run resumes as if unbroken."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from transformers import TrainerCallback

import checkpoint_phases
from checkpoint_phases import COMPLETE
from processes import LARGE, run_ranks
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.checkpoint.node_copy import own_start
from ray_st.training.checkpoint.sample_log import LEDGER, SampleLog, read_ledger
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.local_source import local_context
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World

ROWS, BATCH, STEPS, EVERY = 32, 4, 8, 2
KILLED = 9

REPORTED = "old ones are deleted, Ray does not know"
PHASES = {**checkpoint_phases.PHASES, REPORTED: (WorkerContext, "report")}
"""What is called next at each phase of the second checkpoint."""

RESUMES_AT = {phase: 2 * EVERY if phase in (COMPLETE, REPORTED) else EVERY for phase in PHASES}
"""The step from which the run resumes."""


@dataclass
class Killed:
    """Kills its process when it is called for the second time."""

    function: Callable[..., Any]
    calls: int = field(default=0, init=False)

    def __call__(self, *given: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == 2:
            os._exit(KILLED)
        return self.function(*given, **options)


class KilledAhead(TrainerCallback):
    """Kills its process a step after the second checkpoint was begun, whose files are not there yet."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 * EVERY + 1:
            os._exit(KILLED)


def trainer_of(folder: Path, model_folder: Path, world: World) -> Any:
    torch.set_num_threads(1)
    model = SentenceTransformer(model_folder, device="cpu")
    texts = {"a": [f"one {i}" for i in range(ROWS)], "b": [f"two {i * i}" for i in range(ROWS)]}
    arguments = {"save_strategy": "steps", "save_steps": EVERY, "save_total_limit": 1, "logging_steps": 1}
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        global_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=0.01,
        report_to="none",
        **arguments,
    )
    loss = MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model, args, train_dataset=Dataset.from_dict(texts), loss=loss)
    log = SampleLog(folder / LEDGER) if world.is_first else None
    context = local_context(trainer.data.train_specs(world.size), folder, world, sample_log=log)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return trainer.spec().rebuild(context)


def trained(folder: Path, model_folder: Path, world: World, expected: int | None) -> Any:
    """A trainer whose run has ended, which went on from a step if one is expected."""
    trainer = trainer_of(folder, model_folder, world)
    start = own_start(trainer.worker.store, world)
    assert (None if start is None else start.manifest["step"]) == expected
    trainer.train(resume_from_checkpoint=None if start is None else start.path)
    return trainer


def killed(folder: Path, model_folder: Path, phase: str, world: World = World()) -> None:  # noqa: B008
    """Trains until the first rank is killed."""
    trainer = trainer_of(folder, model_folder, world)
    if phase not in PHASES:
        trainer.add_callback(KilledAhead())
        add, blocks = CheckpointStore.add, iter((False, True))
        CheckpointStore.add = lambda *given: threading.Event().wait() if next(blocks) else add(*given)  # type: ignore[assignment,method-assign]
    elif world.is_first:
        owner, name = PHASES[phase]
        owner = trainer.worker if owner is WorkerContext else owner
        dying = Killed(getattr(owner, name))
        # A function of a class gets its object as a method would.
        setattr(owner, name, (lambda *given, **options: dying(*given, **options)))
    trainer.train()


def process(task: Callable[..., None], *given: Any) -> Any:
    multiprocessing.set_forkserver_preload(LARGE)
    started = multiprocessing.get_context("forkserver").Process(target=task, args=given)
    started.start()
    return started


@pytest.fixture(scope="module")
def unbroken(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(tmp_path_factory.mktemp("unbroken"), tiny_folder, World(), None)


def check_same(found: Any, unbroken: Any) -> None:
    """The same rows in the same steps, the same losses, and weights equal to the bit."""
    ours, theirs = (list(read_ledger(one.worker.store.location(LEDGER))) for one in (found, unbroken))
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert ours == theirs
    ours, theirs = (
        [(entry["step"], entry["loss"]) for entry in one.state.log_history if "loss" in entry]
        for one in (found, unbroken)
    )
    assert ours == theirs
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    assert found.worker.store.steps() == unbroken.worker.store.steps() == [STEPS]


@pytest.mark.parametrize("phase", [*PHASES, "training is ahead"])
def test_it_resumes_as_if_unbroken(unbroken: Any, tiny_folder: Path, tmp_path: Path, phase: str) -> None:
    victim = process(killed, tmp_path, tiny_folder, phase)
    victim.join()
    assert victim.exitcode == KILLED
    step = RESUMES_AT.get(phase, EVERY)
    check_same(trained(tmp_path, tiny_folder, World(), step), unbroken)


def on_rank(rank: int, folder: Path, model_folder: Path, phase: str, resumes_at: int | None) -> None:
    """One of two ranks: is killed, or leaves its weights in a file."""
    meeting = f"file://{folder}/meet-{phase.replace(' ', '-')}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=2)
    world = World(rank, 2, local_rank=rank)
    if phase:
        killed(folder, model_folder, phase, world)
    found = trained(folder, model_folder, world, resumes_at)
    torch.save(found.model.state_dict(), folder / f"weights-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_it_resumes_on_two_ranks_as_if_unbroken(tiny_folder: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("unbroken", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "broken":
            phase = "all files are hashed, no manifest"
            victims = [process(on_rank, rank, folder, tiny_folder, phase, None) for rank in range(2)]
            for victim in victims:
                victim.join()
            assert victims[0].exitcode == KILLED
            assert victims[1].exitcode != 0, "it waits for the other"
        run_ranks(on_rank, folder, tiny_folder, "", 2 if name == "broken" else None)
        found[name] = [torch.load(folder / f"weights-{rank}.pt") for rank in range(2)]
    expected = found["unbroken"][0]
    for weights in (found["unbroken"][1], *found["broken"]):
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    ledgers = [list(read_ledger(tmp_path / name / LEDGER)) for name in found]
    assert ledgers[0] == ledgers[1]
