"""Models of the user's own classes, with remote code, with a hand-made PeftModel: train, best, resume, killed, searched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.models import Module, Pooling, Transformer
from remote_folder import save_remote
from runtime_helpers import KillOnce, losses_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = ["good", "bad", "weather", "man", "eats", "pasta", "sunny", "text"]
ANCHORS = [f"{WORDS[i % 8]} {WORDS[i // 8]} a" for i in range(32)]
POSITIVES = [f"{WORDS[i // 8]} the {WORDS[i % 8]}" for i in range(32)]
METRIC = "eval_dev_spearman_cosine"


def by_hand(tiny_encoder: Path, folder: Path) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32)], device="cpu")
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, lora_dropout=0.0)
    model[0].auto_model = peft.get_peft_model(model[0].auto_model, config)
    return model


def remote(tiny_encoder: Path, folder: Path) -> Any:
    if not folder.exists():
        save_remote(folder, tiny_encoder)
    return SentenceTransformer(folder, trust_remote_code=True, device="cpu")


def own(tiny_encoder: Path, folder: Path) -> Any:
    """A module whose class no other process can import, as one of a script."""

    class Head(Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(32))

        def forward(self, features: Any) -> Any:
            return {**features, "sentence_embedding": features["sentence_embedding"] @ self.weight}

        def save(self, folder: str | Path) -> None:
            torch.save(self.weight.data, Path(folder, "head.pt"))

        @classmethod
        def load(cls, folder: str | Path, **options: Any) -> Any:
            head = cls()
            head.weight.data = torch.load(Path(folder, "head.pt"), weights_only=True)
            return head

    return SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Head()], device="cpu")


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of remote code that workers do not share."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def trainer_of(folder: Path, **options: Any) -> SentenceTransformerTrainer:
    arguments = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        **options.pop("arguments", {}),
    }
    rows = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES})
    return SentenceTransformerTrainer(
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=rows,
        evaluator=EmbeddingSimilarityEvaluator(
            ANCHORS, POSITIVES, [i * 7 % 32 / 32 for i in range(32)], name="dev"
        ),
        loss=losses.MultipleNegativesRankingLoss,
        scaling_config=ScalingConfig(num_workers=1),
        **options,
    )


@pytest.mark.parametrize("make", [own, remote, by_hand])
def test_it_is_trained_killed_evaluated_in_the_background_resumed_and_searched(
    make: Callable[[Path, Path], Any], tiny_encoder: Path, tmp_path: Path, modules_cache: None
) -> None:
    def model() -> Any:
        return make(tiny_encoder, tmp_path / "base")

    best = {"load_best_model_at_end": True, "metric_for_best_model": METRIC, "eval_on": "background"}
    broken = trainer_of(
        tmp_path / "run",
        model=model(),
        arguments=best,
        callbacks=[KillOnce(2, tmp_path / "killed")],
        run_config=RunConfig(failure_config=FailureConfig(max_failures=1)),
    )
    before = {name: weight.detach().clone() for name, weight in broken.model.named_parameters()}
    broken.train()
    assert (tmp_path / "killed").exists()
    assert broken.state.global_step == 4
    trained = {name: weight for name, weight in broken.model.named_parameters() if weight.requires_grad}
    assert any(not torch.equal(weight, before[name]) for name, weight in trained.items())
    scores = {line["step"]: line[METRIC] for line in broken.state.log_history if METRIC in line}
    assert set(scores) == {1, 2, 3, 4}
    assert scores[broken.state.best_global_step] == max(scores.values())
    assert broken.evaluate()[METRIC] == pytest.approx(max(scores.values()), abs=1e-6)
    resumed = trainer_of(tmp_path / "run", model=model())
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert losses_of(resumed) == pytest.approx(losses_of(broken), abs=1e-5)
    searched = trainer_of(tmp_path / "search", model_init=model, arguments={"save_strategy": "no"})
    found = searched.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        lambda metrics: metrics[METRIC],
        n_trials=2,
        direction="maximize",
        name="found",
    )
    assert found.objective is not None
