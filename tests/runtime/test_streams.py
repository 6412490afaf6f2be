"""Several datasets, windows, the ledger, and going on with another number of workers, on a local cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from datasets import Dataset

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from runtime_helpers import KillOnce, difference, losses_of

pytestmark = pytest.mark.ray

GLOBAL_BATCH = 12
WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]


def texts(rows: int, salt: int) -> list[str]:
    return [f"{WORDS[(i * salt) % 10]} {i} {salt}" for i in range(rows)]


def datasets() -> dict[str, Any]:
    """Four datasets of three shapes and sizes, one of them smaller than a world of four."""
    pairs = {"anchor": texts(50, 1), "positive": texts(50, 3)}
    scored = {"one": texts(30, 5), "two": texts(30, 7), "score": [i / 30 for i in range(30)]}
    triplets = {"a": texts(20, 2), "b": texts(20, 4), "c": texts(20, 6)}
    return {
        "pairs": Dataset.from_dict(pairs),
        "scored": Dataset.from_dict(scored),
        "triplets": ray.data.from_items(
            [dict(zip(triplets, row, strict=True)) for row in zip(*triplets.values(), strict=True)]
        ),
        "tiny": Dataset.from_dict({"anchor": texts(3, 8), "positive": texts(3, 9)}),
    }


def run(folder: Path, model_folder: Path, workers: int, **options: Any) -> SentenceTransformerTrainer:
    model = SentenceTransformer(model_folder, device="cpu")
    ranking = losses.MultipleNegativesRankingLoss(model, gather_across_devices=True)
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "global_train_batch_size": GLOBAL_BATCH,
        "dataset_batch_sizes": {"scored": 6},
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 4,
        "ledger": True,
        "prompts": {"pairs": {"anchor": "query: "}, "triplets": "text: "},
        **options.pop("arguments", {}),
    }
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=datasets(),
        loss={
            "pairs": ranking,
            "tiny": ranking,
            "scored": losses.CoSENTLoss(model, gather_across_devices=True),
            "triplets": losses.TripletLoss(model),
        },
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        **{name: options.pop(name) for name in ("callbacks",) if name in options},
    )
    trainer.train(**options)
    return trainer


def ledger(folder: Path) -> list[dict[str, Any]]:
    return list(read_ledger(folder / LEDGER))


@pytest.fixture(scope="module")
def unbroken(cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("unbroken"), tiny_folder, workers=2)


def test_every_step_takes_from_one_dataset_and_every_row_is_used_once_an_epoch(unbroken: Any) -> None:
    lines = ledger(Path(unbroken.args.output_dir))
    edges = [50, 80, 100, 103]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) == 2 * (5 + 5 + 2 + 1)
    for line in lines:
        (batch,) = line["rows"]
        assert len({sum(row >= edge for edge in edges) for row in batch}) == 1
    for epoch in (lines[:13], lines[13:]):
        assert sorted(row for line in epoch for row in line["rows"][0]) == list(range(103))
    assert lines[:13] != lines[13:]


def test_in_turn_each_step_is_of_one_dataset_on_all_ranks(
    cluster: None, tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = {"multi_dataset_batch_sampler": "round_robin", "num_train_epochs": 1, "save_strategy": "no"}
    run(tmp_path, tiny_folder, workers=2, arguments=arguments)
    edges = [50, 80, 100, 103]
    sources = [{sum(row >= edge for edge in edges) for row in line["rows"][0]} for line in ledger(tmp_path)]
    assert sources == [{0}, {1}, {2}, {3}]


def test_the_order_and_the_result_do_not_depend_on_the_number_of_workers(
    unbroken: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    three = run(tmp_path, tiny_folder, workers=3, arguments={"save_strategy": "no"})
    assert ledger(tmp_path) == ledger(Path(unbroken.args.output_dir))
    assert losses_of(three) == pytest.approx(losses_of(unbroken), abs=1e-4)
    assert difference(three, unbroken) < 1e-4


@pytest.mark.long
def test_a_run_goes_on_with_fewer_and_with_more_workers(
    unbroken: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    """Killed on two workers, continued on one, stopped, continued on three."""
    folder = tmp_path / "run"
    callbacks = [KillOnce(10, tmp_path / "killed")]
    run(folder, tiny_folder, workers=2, callbacks=callbacks, arguments={"max_steps": 13})
    assert (tmp_path / "killed").exists()
    assert ledger(folder) == ledger(Path(unbroken.args.output_dir))[:13]
    run(folder, tiny_folder, workers=1, resume_from_checkpoint=True, arguments={"max_steps": 18})
    last = run(folder, tiny_folder, workers=3, resume_from_checkpoint=str(folder / "checkpoint-16"))
    assert ledger(folder) == ledger(Path(unbroken.args.output_dir))
    assert last.state.global_step == 26


def test_other_data_or_settings_are_refused_on_resume(
    unbroken: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = str(Path(unbroken.args.output_dir) / "checkpoint-4")
    changed = datasets()
    changed["tiny"] = Dataset.from_dict({"anchor": texts(3, 8), "positive": texts(3, 11)})
    monkeypatch.setattr(sys.modules[__name__], "datasets", lambda: changed)
    with pytest.raises(
        ValueError, match=r"tiny: texts and labels: \w+ then, \w+ now\. Resume with the same data"
    ):
        run(tmp_path, tiny_folder, workers=1, resume_from_checkpoint=start)
    with pytest.raises(ValueError, match=r"seed: 42 then, 7 now"):
        run(tmp_path, tiny_folder, workers=1, resume_from_checkpoint=start, arguments={"seed": 7})


def test_data_larger_than_a_window_with_unusable_rows_left_out(
    cluster: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.data.segments.ROWS", 40)
    rows = {"anchor": texts(400, 1), "positive": [*texts(400, 3)]}
    rows["positive"][17] = ""
    model = SentenceTransformer(tiny_folder, device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=1,
            global_train_batch_size=16,
            batch_sampler="no_duplicates",
            window_rows=80,
            bad_rows="skip",
            save_strategy="no",
            ledger=True,
        ),
        train_dataset=Dataset.from_dict(rows),
        loss=losses.MultipleNegativesRankingLoss(model),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
    )
    trainer.train()
    used = [row for line in ledger(tmp_path) for row in line["rows"][0]]
    assert sorted(used) == [row for row in range(400) if row != 17]
    blocks = [{row // 40 for row in line["rows"][0]} for line in ledger(tmp_path)]
    assert max(map(len, blocks)) < 10
    (listed,) = tmp_path.glob("bad-rows*.jsonl")
    assert '"row": 17' in listed.read_text()


DRIVER = """
import sys
sys.path[:0] = {path!r}
import ray
ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False, object_store_memory=200_000_000)
from pathlib import Path
import test_streams
test_streams.run(Path({folder!r}), Path({model!r}), workers=2)
"""


@pytest.mark.long
def test_the_driver_is_killed_and_the_run_goes_on_from_storage(
    unbroken: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    script = DRIVER.format(
        path=[str(Path(__file__).parent), str(Path(__file__).parents[1])],
        folder=str(tmp_path),
        model=str(tiny_folder),
    )
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, start_new_session=True
    ) as driver:
        while not (tmp_path / "checkpoint-8" / "manifest.json").exists():
            with pytest.raises(subprocess.TimeoutExpired):  # the driver must not end before it is killed
                driver.wait(0.1)
        os.killpg(driver.pid, signal.SIGKILL)
    run(tmp_path, tiny_folder, workers=1, resume_from_checkpoint=True)
    assert ledger(tmp_path) == ledger(Path(unbroken.args.output_dir))
