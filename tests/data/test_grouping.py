from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from ray_st.data.grouping import GroupByLabelBatchSampler, GroupByLengthBatchSampler
from ray_st.data.keys import Keys


def labelled(*counts: int) -> Keys:
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(len(counts)), counts))
    return Keys(np.zeros((len(labels), 1), dtype=np.uint64), labels=labels)


@pytest.mark.parametrize("counts", [(50, 50), (2, 2), (3, 5, 7, 1), (1000, 4, 2), (1, 1, 2, 9)])
@pytest.mark.parametrize("batch_size", [4, 6, 32])
def test_every_batch_has_two_rows_of_each_of_its_labels(counts: tuple[int, ...], batch_size: int) -> None:
    keys = labelled(*counts)
    sampler = GroupByLabelBatchSampler(keys, batch_size, seed=1)
    plan = sampler.plan()
    for step in range(len(plan)):
        _, found = np.unique(keys.labels[plan.batch(step)], return_counts=True)
        assert found.min() >= 2
        assert found.sum() == batch_size or step == len(plan) - 1
    assert len(plan) == sampler.steps() == len(sampler)
    assert len(np.unique(plan.rows)) == len(plan.rows) == len(keys) - sampler.left_out
    assert sampler.left_out == sum(count % 2 for count in counts)


def test_a_large_label_is_spread_over_the_epoch() -> None:
    keys = labelled(900, 50, 50)
    plan = GroupByLabelBatchSampler(keys, 50).plan()
    kinds = [len(np.unique(keys.labels[plan.batch(step)])) for step in range(len(plan))]
    assert min(kinds) >= 2


def test_which_row_sits_out_changes_and_the_same_epoch_repeats() -> None:
    sampler = GroupByLabelBatchSampler(labelled(7, 7), 4)
    epochs = []
    for epoch in (0, 1, 2, 0):
        sampler.set_epoch(epoch)
        epochs.append(sampler.plan().rows.tolist())
    assert epochs[0] == epochs[3]
    assert len({frozenset(rows) for rows in epochs}) > 1


def test_drop_last_drops_the_incomplete_batch() -> None:
    sampler = GroupByLabelBatchSampler(labelled(6, 4), 4, drop_last=True)
    assert sampler.plan().sizes().tolist() == [4, 4]
    assert sampler.steps() == 2


def test_it_takes_a_dataset() -> None:
    rows = Dataset.from_dict({"text": list("abcdef"), "label": [0, 1, 0, 1, 0, 1]})
    assert len(GroupByLabelBatchSampler(rows, 4, False, ["label"]).plan().rows) == 4


@pytest.mark.parametrize(
    ("keys", "batch_size", "message"),
    [
        (labelled(4, 4), 3, "even and at least 4; got 3"),
        (labelled(4, 4), 2, "even and at least 4; got 2"),
        (labelled(9), 4, "at least two labels with two rows each; found 1 among 1"),
        (labelled(9, 1, 1), 4, "found 1 among 3 labels"),
        (Keys(np.zeros((4, 1), dtype=np.uint64)), 4, "the dataset has none"),
    ],
)
def test_what_it_cannot_group(keys: Keys, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupByLabelBatchSampler(keys, batch_size)


def test_batches_of_similar_length() -> None:
    tokens = np.random.default_rng(0).integers(3, 200, 1003)
    keys = Keys(np.zeros((1003, 1), dtype=np.uint64), tokens=tokens)
    sampler = GroupByLengthBatchSampler(keys, 16, seed=2)
    plan = sampler.plan()
    assert sorted(plan.rows.tolist()) == list(range(1003))
    assert len(plan) == sampler.steps() == 63
    assert plan.sizes()[:-1].tolist() == [16] * 62
    padded = sum(len(batch) * tokens[batch].max() for batch in map(plan.batch, range(len(plan))))
    assert padded / tokens.sum() < 1.08
    longest = [tokens[plan.batch(step)].max() for step in range(len(plan))]
    assert longest[:50] != sorted(longest[:50], reverse=True)  # in random order


def test_lengths_must_be_known() -> None:
    with pytest.raises(ValueError, match="group_by_length needs token counts"):
        GroupByLengthBatchSampler(Keys(np.zeros((4, 1), dtype=np.uint64)), 2)
