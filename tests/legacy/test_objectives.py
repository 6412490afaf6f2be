from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

from legacy_helpers import examples
from ray_st import InputExample, losses
from ray_st.data.grouping import GroupByLabelBatchSampler
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler
from ray_st.datasets import NoDuplicatesDataLoader, SentenceLabelDataset
from ray_st.legacy.objectives import FitObjective, read_objectives
from ray_st.models.fit_methods import FittedStack


class Stream(IterableDataset[InputExample]):
    def __iter__(self) -> Any:
        return iter(examples(5))


def read(loader: Any, loss: Any = None) -> FitObjective:
    return read_objectives([(loader, loss or torch.nn.Identity())])["objective_1"]


def batches(objective: FitObjective, seed: int = 7) -> list[list[int]]:
    return list(objective.order(objective.rows, seed))


def test_rows_and_labels() -> None:
    objective = read(DataLoader(examples(5), batch_size=2))
    assert objective.rows.column_names == ["sentence_0", "sentence_1", "label"]
    assert objective.rows["sentence_0"][:] == [example.texts[0] for example in examples(5)]  # type: ignore[index]
    assert objective.rows["label"][:] == pytest.approx([example.label for example in examples(5)])


def test_labels_that_nobody_gave_are_left_out_unless_the_loss_needs_them(tiny_model: Any) -> None:
    plain = [InputExample(texts=["good", "bad"]) for _ in range(4)]
    for loss in (None, losses.MultipleNegativesRankingLoss(tiny_model)):
        assert "label" not in read(DataLoader(plain), loss).rows.column_names
    assert "label" in read(DataLoader(plain), losses.CosineSimilarityLoss(tiny_model)).rows.column_names


def test_vectors_as_labels() -> None:
    rows = [InputExample(texts=["good"], label=np.full(3, row, dtype=np.float32)) for row in range(2)]
    assert read(DataLoader(rows)).rows["label"][:] == [[0.0] * 3, [1.0] * 3]


def test_each_kind_of_loader_keeps_its_order() -> None:
    rows = examples(5)
    assert batches(read(DataLoader(rows, batch_size=2))) == [[0, 1], [2, 3], [4]]
    assert batches(read(DataLoader(rows, batch_size=2, drop_last=True))) == [[0, 1], [2, 3]]
    assert batches(read(DataLoader(Stream(), batch_size=2))) == [[0, 1], [2, 3], [4]]
    shuffled = read(DataLoader(rows, batch_size=2, shuffle=True))
    assert isinstance(shuffled.order(shuffled.rows, 1), DefaultBatchSampler)
    assert batches(shuffled, 1) != batches(shuffled, 2)
    generator = torch.Generator().manual_seed(3)
    seeded = read(DataLoader(rows, batch_size=2, shuffle=True, generator=generator))
    assert batches(seeded, 1) == batches(seeded, 2) == batches(shuffled, 3)


def test_loaders_of_ours_become_samplers_of_ours() -> None:
    unlike = NoDuplicatesDataLoader(examples(9), batch_size=4, seed=5, drop_last=True)
    sampler = read(unlike).order(read(unlike).rows, 0)
    assert isinstance(sampler, NoDuplicatesBatchSampler)
    assert (sampler.batch_size, sampler.seed, sampler.drop_last) == (4, 5, True)
    labelled = [InputExample(texts=[f"text {row}"], label=row % 3) for row in range(12)]
    grouped = read(DataLoader(SentenceLabelDataset(labelled), batch_size=4))
    assert isinstance(grouped.order(grouped.rows, 0), GroupByLabelBatchSampler)


def _own(batch: list[InputExample]) -> list[InputExample]:
    return batch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sampler": [[0, 1], [2]]}, "batch_sampler of its own"),
        ({"collate_fn": _own}, "collate_fn of its own"),
        ({"sampler": WeightedRandomSampler([1.0] * 5, 5)}, "sampler of its own"),
        ({"sampler": torch.utils.data.RandomSampler(range(5), replacement=True)}, "sampler of its own"),
    ],
)
def test_what_only_a_loader_can_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"train_objectives\[0\]: the loader has a {message}.*old_fit"):
        read(DataLoader(examples(5), **options))


def test_what_is_no_loader_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="expected a DataLoader or NoDuplicatesDataLoader; found list"):
        read(examples(5))
    with pytest.raises(ValueError, match="found none"):
        read_objectives([])
    with pytest.raises(ValueError, match="Example 1 has 1 texts, the first has 2"):
        read(DataLoader([*examples(1), InputExample(texts=["good"])]))
    with pytest.raises(ValueError, match="scheduler must be one of"):
        tiny_model.fit(
            [(DataLoader(examples(3)), losses.CosineSimilarityLoss(tiny_model))], scheduler="cosine"
        )


def test_the_collate_function_of_older_scripts_is_known(tiny_model: Any) -> None:
    loader = DataLoader(examples(5), collate_fn=tiny_model.smart_batching_collate)
    assert len(read(loader).rows) == 5


def test_texts_that_name_their_task() -> None:
    routed = [InputExample(texts=[{"query": f"q {row}"}, {"document": f"a {row}"}]) for row in range(3)]  # type: ignore[list-item]
    objective = read(DataLoader(routed, batch_size=2, collate_fn=FittedStack.smart_batching_collate))
    assert objective.tasks == {"sentence_0": "query", "sentence_1": "document"}
    assert objective.rows["sentence_1"][:] == ["a 0", "a 1", "a 2"]
    assert read(DataLoader(examples(3))).tasks == {}
