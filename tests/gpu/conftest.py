"""Each body runs on a GPU, where there is one, and on a device that is pretended everywhere.

A GPU's tests need no Ray, except for those that say so; they import nothing of ``ray_st.runtime``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from pretended_device import Syncs, pretended_device

GPU = pytest.param("cuda", marks=pytest.mark.gpu)

if torch.cuda.is_available():
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # read when CUDA starts; sums in a fixed order


@pytest.fixture(params=[GPU, "pretended"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A GPU, a pretended one or, where a test asks for it, the CPU."""
    with ExitStack() as stack:
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("needs a GPU: torch.cuda.is_available() is False")
        if request.param == "pretended":
            stack.enter_context(pretended_device())
        yield torch.device("cpu") if request.param == "cpu" else torch.device("cuda", 0)


@pytest.fixture
def pretended() -> Iterator[Syncs]:
    """A pretended device, and what made the host wait for it."""
    with pretended_device() as syncs:
        yield syncs


@pytest.fixture
def tiny(tiny_folder: Path) -> Callable[..., Any]:
    """Opens the tiny model on a device."""
    from ray_st import SentenceTransformer

    return lambda device, **options: SentenceTransformer(tiny_folder, device=str(device), **options)


PAIRS = {"a": [f"one {i} the weather" for i in range(12)], "b": [f"two {i * i}" for i in range(12)]}


def forget_accelerator() -> None:
    """accelerate's state is one for a process, and a worker's process runs one trainer on one device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make_trainer(
    model: Any, folder: Path, loss: Any = None, callbacks: Any = (), data: Any = PAIRS, **arguments: Any
) -> Any:
    """A driver's trainer over twelve pairs, evaluated on the same; keyword arguments are training arguments."""
    from ray_st import CrossEncoder, CrossEncoderTrainer, SentenceTransformerTrainer
    from ray_st.evaluation import EmbeddingSimilarityEvaluator
    from ray_st.losses import MultipleNegativesRankingLoss
    from ray_st.training_args import SentenceTransformerTrainingArguments

    forget_accelerator()
    reranks = isinstance(model, CrossEncoder)
    options = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "dataloader_pin_memory": torch.accelerator.is_available(),
    }
    kind: Any = CrossEncoderTrainer if reranks else SentenceTransformerTrainer
    similarity = EmbeddingSimilarityEvaluator(PAIRS["a"], PAIRS["b"], [i / 12 for i in range(12)])
    return kind(
        model=model,
        args=SentenceTransformerTrainingArguments(**{**options, **arguments}),
        train_dataset=data,
        eval_dataset=data,
        loss=(loss or MultipleNegativesRankingLoss)(model),
        evaluator=None if reranks else similarity,
        callbacks=list(callbacks),
    )


def make_loop(model: Any, folder: Path, **options: Any) -> Any:
    """A worker's trainer; see :func:`make_trainer`."""
    from ray_st.training.data.dataset_specs import prompt_lengths
    from ray_st.training.data.local_source import local_context

    trainer = make_trainer(model, folder, **options)
    specs = {**trainer.data.train_specs(1), **trainer.data.eval_specs(1)}
    return trainer.spec().rebuild(local_context(specs, folder, prompt_lengths=prompt_lengths(specs)))


@pytest.fixture
def loop() -> Iterator[Callable[..., Any]]:
    """Makes a worker's trainer; see :func:`make_trainer`."""
    pytest.importorskip("datasets")
    yield make_loop
    forget_accelerator()
