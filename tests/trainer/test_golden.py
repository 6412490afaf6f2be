"""The golden run: figures of short whole runs, recorded to the last digit, which a refactor reproduces.

``golden.json`` names the torch and the processor that each run's figures were recorded with; with these they are
compared exactly. Others add in another order: older instruction sets move norms of gradients by two millionths, so
there 1e-5 is allowed. A change that alters results on purpose records them anew and says so in the changelog:
``RECORD_GOLDEN=1 python -m pytest tests/trainer/test_golden.py``.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ray.train import ScalingConfig

from ray_st import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from ray_st.cross_encoder import losses as score_losses
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.model_trainer import ModelTrainer
from reranker_rows import correlation, rows
from runtime_helpers import Jittered

GOLDEN = Path(__file__).with_name("golden.json")
TIMES = ("runtime", "per_second")
WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]


def text(number: int) -> str:
    """One to five words."""
    return " ".join(WORDS[(number * 7 + place * place) % 10] for place in range(1 + number % 5))


ROWS = Dataset.from_dict(
    {
        "anchor": [f"{text(i)} {i}" for i in range(80)],
        "positive": [f"{text(3 * i + 1)} {i * i}" for i in range(80)],
    }
)
BEST = "eval_dev_spearman_cosine"
GLOBAL_BATCH, ACCUMULATION = 8, 2


def evaluator() -> EmbeddingSimilarityEvaluator:
    scores = [i * 7 % 23 / 23 for i in range(23)]
    return EmbeddingSimilarityEvaluator(ROWS["anchor"][:23], ROWS["positive"][1:24], scores, name="dev")


def make_trainer(
    folder: Path,
    model_folder: Path,
    workers: int,
    kind: type[SentenceTransformerTrainer] = Jittered,
    **options: Any,
) -> SentenceTransformerTrainer:
    """Trains eighty pairs in twenty steps of two batches for each worker; evaluates and saves at every fifth."""
    arguments = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": GLOBAL_BATCH // ACCUMULATION // max(workers, 1),
        "per_device_eval_batch_size": 5,
        "gradient_accumulation_steps": ACCUMULATION,
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "warmup_steps": 3,
        "batch_sampler": "no_duplicates",
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "steps",
        "save_steps": 5,
        "load_best_model_at_end": True,
        "metric_for_best_model": BEST,
        "greater_is_better": True,
        "report_to": "none",
        "seed": 7,
        **options.pop("arguments", {}),
    }
    if "model_init" not in options:
        options["model"] = SentenceTransformer(model_folder, device="cpu")
    return kind(
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=ROWS,
        eval_dataset=ROWS.select(range(40, 57)),
        loss=MultipleNegativesRankingLoss,
        evaluator=evaluator(),
        scaling_config=ScalingConfig(num_workers=workers),
        **options,
    )


# ---- what is recorded ----


def figures(trainer: ModelTrainer) -> dict[str, Any]:
    """All that a run says of itself, but its times; and the weights that it ends with."""
    weights = [tensor.double().abs().sum() for tensor in trainer.model.state_dict().values()]
    return {
        "history": [without_times(entry) for entry in trainer.state.log_history],
        "best_step": trainer.state.best_global_step,
        "best": trainer.state.best_metric,
        "weights": float(sum(weights)),
    }


def without_times(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if not name.endswith(TIMES)}


def later(found: dict[str, Any], step: int = 10) -> list[dict[str, float]]:
    """The steps after one, without the summary: of a resumed run it counts what was trained since."""
    return [entry for entry in found["history"] if entry["step"] > step and "train_loss" not in entry]


def machine() -> list[str]:
    """What the last digit of a sum depends on."""
    cpu, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        described = dict.fromkeys(re.findall(r"^model(?: name)?\s*: (.*)", info.read_text(), re.MULTILINE))
        cpu = ", model ".join([*described][::-1]) or cpu
    return [torch.__version__, torch.backends.cpu.get_cpu_capability(), cpu]


def check(name: str, found: Any) -> None:
    """Compares figures with the recorded ones of that name, or records them."""
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("RECORD_GOLDEN"):
        lines = json.dumps({**golden, name: {**found, "machine": machine()}}, indent=1)
        GOLDEN.write_text(re.sub(r"\{[^{}]*\}", lambda entry: " ".join(entry[0].split()), lines) + "\n")
        return
    recorded = golden[name]
    exact = recorded.pop("machine") == machine()
    wrong = list(differences(found, recorded, 0 if exact else 1e-5))
    assert not wrong, f"{name}: {len(wrong)} figures are not the recorded ones:\n" + "\n".join(wrong[:20])


def differences(found: Any, recorded: Any, rel: float, where: str = "") -> Iterator[str]:
    """Says in words where two trees of figures differ."""
    if isinstance(recorded, dict) and isinstance(found, dict) and set(recorded) == set(found):
        for name, value in recorded.items():
            yield from differences(found[name], value, rel, f"{where}.{name}")
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for place, value in enumerate(recorded):
            yield from differences(found[place], value, rel, f"{where}[{place}]")
    elif isinstance(recorded, float):
        if found != pytest.approx(recorded, rel=rel, abs=rel):
            yield f"{where}: {found!r}, recorded {recorded!r}"
    elif found != recorded:
        yield f"{where}: {found!r}, recorded {recorded!r}"


# ---- the runs ----


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As Ray gives a worker with one CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("fresh_accelerator", "one_thread")
def test_in_this_process(tiny_folder: Path, tmp_path: Path) -> None:
    whole = make_trainer(tmp_path, tiny_folder, workers=0)
    whole.train()
    found = figures(whole)
    check("this process", found)
    resumed = make_trainer(tmp_path, tiny_folder, workers=0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert later(figures(resumed)) == later(found)
    assert figures(resumed)["weights"] == found["weights"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_on_two_workers(tiny_folder: Path, tmp_path: Path) -> None:
    whole = make_trainer(tmp_path, tiny_folder, workers=2)
    whole.train()
    found = figures(whole)
    check("two workers", found)
    resumed = make_trainer(tmp_path, tiny_folder, workers=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert later(figures(resumed)) == later(found)
    assert figures(resumed)["weights"] == found["weights"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_evaluated_in_the_background(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = {"eval_on": "background", "eval_resources": {"CPU": 0.5}}
    trainer = make_trainer(tmp_path, tiny_folder, 2, SentenceTransformerTrainer, arguments=arguments)
    trainer.train()
    check("background", figures(trainer))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
# Ray Tune leaves files and sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_trial(tiny_folder: Path, tmp_path: Path) -> None:
    def model_init(trial: Any) -> SentenceTransformer:
        return SentenceTransformer(str(tiny_folder), device="cpu")

    def space(trial: Any) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}

    trainer = make_trainer(tmp_path, tiny_folder, 1, SentenceTransformerTrainer, model_init=model_init)
    best = trainer.hyperparameter_search(
        space, lambda metrics: metrics[BEST], n_trials=1, direction="maximize", name="golden"
    )
    reports = [
        {**without_times(report["metrics"]), "step": report["step"], "objectives": report["objectives"]}
        for report in best.run_summary.trials[0].history
    ]
    check("trial", {"values": best.hyperparameters, "objective": best.objective, "reports": reports})


# ---- rerankers ----

RERANKERS = [
    ("binary", "BinaryCrossEntropyLoss"),
    ("lists", "LambdaLoss"),
    ("triplets", "MultipleNegativesRankingLoss"),
]
"""Forms of rows, and losses; the last draws its negatives."""


def make_reranker_trainer(
    folder: Path, model_folder: Path, form: str, loss: str, workers: int
) -> CrossEncoderTrainer:
    """Trains forty rows in ten steps; evaluates and saves at every fifth."""
    args = CrossEncoderTrainingArguments(
        str(folder),
        num_train_epochs=2,
        global_train_batch_size=8,
        per_device_eval_batch_size=5,
        learning_rate=0.003,
        weight_decay=0.01,
        warmup_steps=3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=5,
        save_strategy="steps",
        save_steps=5,
        report_to="none",
        seed=7,
    )
    return CrossEncoderTrainer(
        model=CrossEncoder(str(model_folder), device="cpu"),
        args=args,
        train_dataset=rows(form, 40),
        eval_dataset=rows(form, 17, seed=2),
        loss=getattr(score_losses, loss),
        evaluator=correlation(),
        scaling_config=ScalingConfig(num_workers=workers),
    )


def losses(trainer: ModelTrainer) -> dict[str, list[float]]:
    """No weights: a loss within lists does not see the last bias, whose gradient is noise that AdamW scales up."""
    history = trainer.state.log_history
    return {name: [entry[name] for entry in history if name in entry] for name in ("loss", "eval_loss")}


@pytest.mark.usefixtures("fresh_accelerator", "one_thread")
@pytest.mark.parametrize(("form", "loss"), RERANKERS)
def test_a_reranker(form: str, loss: str, tiny_reranker: Path, tmp_path: Path) -> None:
    whole = make_reranker_trainer(tmp_path, tiny_reranker, form, loss, workers=0)
    whole.train()
    found = figures(whole)
    assert len(losses(whole)["loss"]) == 10
    check(f"reranker, {loss}", losses(whole))
    resumed = make_reranker_trainer(tmp_path, tiny_reranker, form, loss, workers=0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert later(figures(resumed), 5) == later(found, 5)
    assert figures(resumed)["weights"] == found["weights"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_reranker_on_two_workers(tiny_reranker: Path, tmp_path: Path) -> None:
    trainer = make_reranker_trainer(tmp_path, tiny_reranker, *RERANKERS[-1], workers=2)
    trainer.train()
    check("reranker, two workers", losses(trainer))
