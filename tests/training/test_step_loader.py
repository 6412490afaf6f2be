from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import accelerate
import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_st.data.batch_source import MemoryBatchSource, Planner
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.encoding import Encoding, encode_block
from ray_st.data.plan import Piece, Plan
from ray_st.training.data.step_loader import (
    SHARES,
    Collate,
    EpochSteps,
    StepDataset,
    collect,
    flatten,
    step_loader,
)
from ray_st.world import World

COLUMNS = ColumnSpec(("q", "a"), "label")
ROWS = 22


def letters(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.array([ord(letter) for letter in text], dtype=np.int32) for text in texts]


def pad(ids: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
    rows = [torch.from_numpy(row.astype(np.int64)) for row in ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": padded, "attention_mask": (padded > 0).long()}


def window(columns: ColumnSpec = COLUMNS, tokens: bool = True, label: Any = float) -> EncodedDataset:
    table = pa.table(
        {
            "q": [chr(97 + i) for i in range(ROWS)],
            "a": ["answer" + "." * (i % 3) for i in range(ROWS)],
            "label": [label(i) for i in range(ROWS)],
        }
    )
    return EncodedDataset([encode_block(table, Encoding(columns, letters if tokens else None))], columns)


def no_tokenizer(texts: list[str]) -> Mapping[str, torch.Tensor]:
    raise AssertionError("rows hold token ids; they are not tokenised again")


def collate(**options: Any) -> Collate:
    return Collate(tokenize=no_tokenizer, pad=pad, **options)


class Epochs:
    """A sampler whose batches tell their epoch."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.epoch = batch_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        order = np.roll(np.arange(ROWS), self.epoch).tolist()
        yield from (order[start : start + self.batch_size] for start in range(0, ROWS, self.batch_size))


def memory_source(batch_size: int = 4, **options: Any) -> MemoryBatchSource:
    return MemoryBatchSource({"": window(**options)}, Planner(Epochs(batch_size), 3))


def rows_of(inputs: Mapping[str, Any]) -> list[int]:
    return [int(row) - 97 for row in inputs["q_input_ids"][:, 0]]


# ---- the documented form of a batch ----


def test_flattening_and_collecting_are_inverse() -> None:
    features = {
        "sentence": {"input_ids": 1, "attention_mask": 2, "token_type_ids": 3, "prompt_length": 4},
        "sentence_input_ids": {"input_ids": 5, "attention_mask": 6},
        "image": {"pixel_values": 7},
        "label_text": {"sentence_embedding": 8},
    }
    label = torch.tensor([1.0])
    inputs = flatten(features, label)
    assert inputs["sentence_input_ids"] == 1
    assert inputs["sentence_input_ids_input_ids"] == 5
    columns, labels = collect({**inputs, "dataset_name": "x", "return_loss": True})
    assert columns == list(features.values())
    assert labels is label
    assert collect(flatten({"a": {"input_ids": 1}})) == ([{"input_ids": 1}], None)


def test_features_of_other_modules_stay_with_their_column() -> None:
    features = {
        "text": {"input_ids": 1, "sentence_lengths": 2},
        "text_long": {"input_ids": 3, "sentence_lengths": 4, "token_weights_sum": 5},
    }
    assert collect(flatten(features, 1))[0] == list(features.values())


# ---- collating ----


def test_rows_become_padded_columns_and_labels() -> None:
    inputs = collate()(window(), np.array([2, 0]))
    assert list(inputs) == [
        "q_input_ids",
        "q_attention_mask",
        "q_token_lengths",
        "q_padding_side",
        "a_input_ids",
        "a_attention_mask",
        "a_token_lengths",
        "a_padding_side",
        "a_pad_id",
        "label",
    ]
    assert inputs["a_token_lengths"].tolist() == [8, 6]
    assert (inputs["a_padding_side"], inputs["a_pad_id"]) == ("right", 0)
    assert rows_of(inputs) == [2, 0]
    assert inputs["a_input_ids"].shape == (2, 8)
    assert inputs["a_attention_mask"].sum(1).tolist() == [8, 6]
    assert torch.equal(inputs["label"], torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [(int, torch.int64, (2,)), (bool, torch.int64, (2,)), (lambda i: [float(i)] * 3, torch.float32, (2, 3))],
)
def test_labels_become_a_tensor(kind: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    labels = collate()(window(label=kind), np.array([1, 2]))["label"]
    assert labels.dtype == dtype
    assert labels.shape == shape


def test_prompt_lengths_go_with_their_column() -> None:
    inputs = collate(prompt_lengths={"": {"q": 3}})(window(), np.array([0]))
    assert inputs["q_prompt_length"] == 3
    assert "a_prompt_length" not in inputs
    assert collect(inputs)[0][0]["prompt_length"] == 3


def test_rows_of_texts_are_tokenised() -> None:
    seen = []

    def tokenize(texts: list[str]) -> Mapping[str, torch.Tensor]:
        seen.append(texts)
        return pad(letters(texts))

    spec = ColumnSpec(("q",))
    inputs = Collate(tokenize, pad=None)(window(spec, tokens=False), np.array([1, 3]))
    assert seen == [["b", "d"]]
    assert rows_of(inputs) == [1, 3]
    assert "label" not in inputs


def test_a_collator_of_the_users_gets_rows() -> None:
    made = collate(collator=lambda rows: {"rows": rows})(window(tokens=False), np.array([1, 3]))
    assert made == {
        "rows": [{"q": "b", "a": "answer.", "label": 1.0}, {"q": "d", "a": "answer", "label": 3.0}]
    }


def test_a_model_with_its_own_tokens(tiny_model: Any) -> None:
    encoder = tiny_model.token_encoder()
    texts = ["a sunny man eats", "pasta", "the query"]
    spec = ColumnSpec(("q",))
    held = EncodedDataset([encode_block(pa.table({"q": texts}), Encoding(spec, encoder))], spec)
    inputs = Collate(tiny_model.tokenize, encoder.pad)(held, np.array([2, 0]))
    expected = tiny_model.tokenize([texts[2], texts[0]])
    assert torch.equal(inputs["q_input_ids"], expected["input_ids"])
    assert torch.equal(inputs["q_attention_mask"], expected["attention_mask"])


# ---- steps ----


@pytest.mark.parametrize("size", range(1, 9))
def test_the_ranks_batches_are_the_global_batches(size: int) -> None:
    source = memory_source()
    datasets = [StepDataset(source, World(rank, size), collate()) for rank in range(size)]
    for epoch in (0, 2):
        for step in range(source.steps):
            batch = source.piece(epoch, 0).plan.batch(step).tolist()
            parts = [dataset[epoch, step] for dataset in datasets]
            shares = parts[0][SHARES]
            assert all(part[SHARES] == shares for part in parts)
            used = [rows_of(part)[:share] for part, share in zip(parts, shares, strict=True)]
            assert [row for rows in used for row in rows] == batch


def test_a_rank_without_rows_holds_one_filler() -> None:
    inputs = StepDataset(memory_source(), World(0, 8), collate())[0, 0]
    assert inputs[SHARES][0] == 0
    assert rows_of(inputs) == [0]
    assert inputs["label"].tolist() == [0.0]


def test_loader_walks_epochs_in_order() -> None:
    source = memory_source(4)
    loader = step_loader(source, World(), collate())
    assert len(loader) == source.steps == 6
    assert len(loader.dataset) == ROWS  # type: ignore[arg-type]
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        walked = [rows_of(inputs) for inputs in loader]
        assert walked == [source.piece(epoch, 0).plan.batch(step).tolist() for step in range(6)]


def test_resuming_skips_addresses_and_makes_nothing_twice() -> None:
    made: list[list[int]] = []

    class Counting(Collate):
        def __call__(self, held: EncodedDataset, rows: Any, dataset: str = "") -> Any:
            made.append(rows.tolist())
            return super().__call__(held, rows, dataset)

    source = memory_source(4)
    loader = step_loader(source, World(), Counting(no_tokenizer, pad))
    loader.batch_sampler.set_epoch(2)  # type: ignore[union-attr]
    walked = [rows_of(inputs) for inputs in accelerate.skip_first_batches(loader, 4)]
    assert walked == made == [source.piece(2, 0).plan.batch(step).tolist() for step in (4, 5)]


def test_steps_have_what_transformers_asks_for() -> None:
    steps = EpochSteps(3)
    assert steps.batch_sampler is steps
    assert (steps.batch_size, steps.drop_last, len(steps)) == (1, False, 3)
    steps.set_epoch(4)
    assert list(steps) == [[(4, 0)], [(4, 1)], [(4, 2)]]


class Recorder:
    """Stands for a collate; remembers in which order and thread steps were made."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, held: Any, rows: Any, dataset: str) -> dict[str, Any]:
        self.made.append(int(rows[0]))
        self.threads.add(threading.get_ident())
        return {"row": int(rows[0])}

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 5
        while len(self.made) < count and time.monotonic() < deadline:
            time.sleep(0.001)


class SingleRows:
    """A source of single rows, planned three at a time: step i of epoch e is row 100 e + i."""

    steps, rows, names, windows = 8, 8, ("",), (range(1000),)

    def piece(self, epoch: int, step: int) -> Piece:
        first = step // 3 * 3
        return Piece(Plan.consecutive(np.arange(first, min(first + 3, 8)) + 100 * epoch, 1), first)

    def ahead(self, source: int, rows: Any) -> None:
        return None


def recorded() -> tuple[StepDataset, Recorder]:
    recorder = Recorder()
    return StepDataset(SingleRows(), World(), recorder), recorder  # type: ignore[arg-type]


def test_the_next_steps_are_made_in_order_in_a_thread_of_their_own() -> None:
    dataset, recorder = recorded()
    assert dataset[0, 3]["row"] == 3
    recorder.wait_for(3)
    assert recorder.made == [3, 4, 5]
    assert dataset[0, 4]["row"] == 4
    recorder.wait_for(4)
    assert recorder.made == [3, 4, 5, 6]
    assert recorder.threads.isdisjoint({threading.get_ident()})
    assert len(recorder.threads) == 1


def test_nothing_is_made_beyond_the_last_step() -> None:
    dataset, recorder = recorded()
    assert [dataset[0, step]["row"] for step in (6, 7)] == [6, 7]
    assert recorder.made == [6, 7]


def test_jumping_back_or_to_another_epoch_gives_the_step_asked_for() -> None:
    dataset, _ = recorded()
    addresses = [(0, 5), (0, 1), (2, 0), (0, 2), (2, 1), (2, 7), (0, 0)]
    assert [dataset[address]["row"] for address in addresses] == [
        100 * epoch + step for epoch, step in addresses
    ]
    assert len(dataset._pending) <= 2  # what was made for nothing is let go


def test_an_error_in_the_thread_reaches_who_asks_for_its_step() -> None:
    def failing(held: Any, rows: Any, dataset: str) -> dict[str, Any]:
        if rows[0] == 2:
            raise ValueError("row 2 is broken")
        return {"row": int(rows[0])}

    dataset = StepDataset(SingleRows(), World(), failing)  # type: ignore[arg-type]
    assert [dataset[0, step]["row"] for step in (0, 1)] == [0, 1]
    with pytest.raises(ValueError, match="row 2 is broken"):
        dataset[0, 2]
    assert dataset[0, 3]["row"] == 3


def test_an_error_of_the_plan_reaches_the_caller() -> None:
    class Broken(SingleRows):
        def piece(self, epoch: int, step: int) -> Piece:
            raise ValueError("no plan")

    with pytest.raises(ValueError, match="no plan"):
        StepDataset(Broken(), World(), Recorder())[0, 0]  # type: ignore[arg-type]
