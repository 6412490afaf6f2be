"""A driver that is too small for what is asked says so before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.data import segments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.runtime.cluster.pickled import bytes_beside_files
from ray_st.runtime.train import driver_memory
from ray_st.runtime.train.driver_memory import ROW_BYTES, check_driver_memory, check_need, driver_need
from ray_st.util import events
from search_helpers import make_trainer

GIB = 2**30


def test_what_rows_need() -> None:
    need = driver_need([(1_000, 2), (500, 5)], sent=0)
    assert need.least == 1_000 * 40 + 500 * 64
    assert need.usual == 1_500 * ROW_BYTES
    assert need.reason == "keys and order of 1,500 rows take about 200 bytes each"


def test_what_is_planned_whole_is_named() -> None:
    need = driver_need([(1_500, 2)], 0, ["train_dataset, no_duplicates, collisions=keep", "eval_dataset"])
    assert need.reason == (
        "keys and order of 1,500 rows, planned at once (train_dataset, no_duplicates, collisions=keep; "
        "eval_dataset), take about 200 bytes each"
    )


def test_weights_that_are_sent_may_go_to_the_disk() -> None:
    need = driver_need([], sent=3 * GIB)
    assert (need.least, need.usual) == (0, 3 * GIB)
    assert need.reason == "3.0 GiB of weights that lie in no file are sent to the workers"


def test_a_run_that_certainly_does_not_fit_is_refused_with_both_figures() -> None:
    need = driver_need([(10**9, 2)], sent=GIB)
    message = (
        r"^This process.* needs at least 37.3 GiB of memory and has 8.0 GiB left: keys and order of "
        r"1,000,000,000 rows.* and 1.0 GiB of weights.*head.memory"
    )
    with pytest.raises(ValueError, match=message):
        check_need(need, 8 * GIB)


def test_one_that_will_probably_not_fit_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(events.notes, "warning", said.append)
    need = driver_need([(10**8, 2)], sent=0)
    check_need(need, need.usual)
    assert said == []
    check_need(need, 8 * GIB)
    (line,) = said
    assert line.startswith(
        "warning: this process, which prepares the run, needs about 18.6 GiB of memory and has 8.0 GiB left"
    )


def test_weights_in_files_cost_nothing(tiny_folder: Path) -> None:
    model = SentenceTransformer(tiny_folder, device="cpu")
    size = sum(weight.nbytes for weight in model.parameters())
    in_files = size - bytes_beside_files([model])
    assert in_files > 0.9 * size
    loss = MultipleNegativesRankingLoss(model)
    assert bytes_beside_files([model, loss]) == bytes_beside_files([model])
    converted = model.to(torch.bfloat16)
    assert bytes_beside_files([converted, loss]) == pytest.approx(size / 2, rel=0.1)


def test_a_trainer_refuses_before_ray_starts(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", none)
    monkeypatch.setattr(driver_memory, "available_memory", lambda: 1_000)
    with pytest.raises(ValueError, match=r"needs at least 0\.0 GiB.*keys and order of 64 rows"):
        make_trainer(tmp_path, tiny_folder).train()


def needs(trainer: Any, monkeypatch: pytest.MonkeyPatch, available: int) -> str:
    """What is said, or raised, about the data of a trainer if so much memory is left."""
    said: list[str] = []
    monkeypatch.setattr(events.notes, "warning", said.append)
    monkeypatch.setattr(driver_memory, "available_memory", lambda: available)
    try:
        check_driver_memory((), trainer.data.train_specs(1))
    except ValueError as error:
        said.append(str(error))
    return "".join(said)


@pytest.mark.parametrize("rows", ["table", "list"])
@pytest.mark.parametrize("collisions", ["keep", "mask", "drop"])
def test_only_data_that_is_planned_whole_needs_memory_for_all_rows(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, rows: str, collisions: str
) -> None:
    monkeypatch.setattr(segments, "ROWS", 8)
    table = pa.table({"a": [f"a {row}" for row in range(640)], "b": [f"b {row}" for row in range(640)]})
    model = SentenceTransformer(tiny_folder, device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            batch_sampler="no_duplicates",
            collisions=collisions,
            eval_strategy="epoch",
        ),
        train_dataset=table if rows == "table" else table.to_pylist(),
        eval_dataset=table.slice(0, 100),
        loss=MultipleNegativesRankingLoss(model),
    )
    whole = collisions == "keep" or rows == "list"
    certain = f"{740 if whole else 116} rows, planned at once"
    assert certain in needs(trainer, monkeypatch, 1_000)
    probable = needs(trainer, monkeypatch, 60_000)
    assert ("needs about" in probable) == whole
    if whole:
        assert f"(train_dataset, no_duplicates, collisions={collisions}; eval_dataset)" in probable
        assert 'collisions="mask" and "drop"' in probable
