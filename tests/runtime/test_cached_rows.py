"""Searches and runs on a cluster that share encoded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.train
from datasets import Dataset

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from runtime_helpers import difference, losses_of
from search_helpers import ANCHORS, POSITIVES, CountingModel, encoded_texts

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def make_trainer(folder: Path, cache: str | bool, **options: Any) -> SentenceTransformerTrainer:
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        token_cache=cache,
        batch_sampler="no_duplicates",
        num_train_epochs=1,
        global_train_batch_size=16,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        ledger=True,
    )
    return SentenceTransformerTrainer(
        args=args,
        train_dataset=Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES}),
        eval_dataset=Dataset.from_dict({"anchor": POSITIVES[:16], "positive": ANCHORS[:16]}),
        loss=lambda model: losses.MultipleNegativesRankingLoss(model),
        **options,
    )


def search(folder: Path, model_folder: Path, cache: str | bool, log: Path, trials: int = 2) -> None:
    trainer = make_trainer(folder, cache, model_init=lambda: CountingModel(str(model_folder), str(log)))
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3)},
        "eval_loss",
        n_trials=trials,
        name="s",
        resources_per_trial={"CPU": 1},
    )


def train(folder: Path, model_folder: Path, cache: str | bool) -> SentenceTransformerTrainer:
    trainer = make_trainer(
        folder,
        cache,
        model=SentenceTransformer(str(model_folder), device="cpu"),
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
    )
    trainer.train()
    return trainer


def test_two_searches_and_a_run_encode_each_row_once(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.data.segments.ROWS", 10)
    cache = tmp_path / "cache"

    def said() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if "token cache" in line]

    search(tmp_path / "one", tiny_folder, str(cache), tmp_path / "log")
    assert said() == [f"token cache: 0 rows read from {cache}, 80 encoded"]
    entries = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(entries) == 7 + 2
    search(tmp_path / "two", tiny_folder, str(cache), tmp_path / "log")
    assert said() == [f"token cache: 80 rows read from {cache}, 0 encoded"]
    warm = train(tmp_path / "three", tiny_folder, str(cache))
    assert said() == [f"token cache: 80 rows read from {cache}, 0 encoded"]
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == entries
    plain = train(tmp_path / "four", tiny_folder, False)
    assert said() == []
    assert losses_of(warm) == losses_of(plain)
    assert difference(warm, plain) == 0
    folders = [Path(one.args.output_dir) / LEDGER for one in (warm, plain)]
    assert [line["rows"] for line in read_ledger(folders[0])] == [
        line["rows"] for line in read_ledger(folders[1])
    ]


def test_twenty_trials_and_a_second_search_encode_each_row_once_in_all(
    tmp_path: Path, tiny_folder: Path
) -> None:
    cache, log = str(tmp_path / "cache"), tmp_path / "log"
    counts = []
    for name in ("one", "two"):
        search(tmp_path / name, tiny_folder, cache, log, trials=20)
        counts.append(encoded_texts(log))
    # 64 pairs to train on and 16 to evaluate with.
    assert counts == [2 * (64 + 16)] * 2
    search(tmp_path / "three", tiny_folder, False, log)
    assert encoded_texts(log) == 2 * counts[0]  # without a cache, but still once a search
