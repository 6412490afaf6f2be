"""Data that a loss cannot use, one test for each kind: refused before anything starts, naming rows where rows are wrong.

A loss that is no number, which only a step can find, is in tests/trainer/test_losses.py.
"""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from ray.train import ScalingConfig

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.data.column_spec import ColumnError, ColumnSpec
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.training.data.local_source import build_here
from ray_st.training.data.specs import TRAIN
from ray_st.training_args import BatchSamplers

ONE, TWO, THREE = ([f"{word} {i}" for i in range(8)] for word in ("one", "two", "three"))
PAIRS = {"a": ONE, "b": TWO}


def softmax(model: Any) -> Any:
    return losses.SoftmaxLoss(model, 32, 3)


def matryoshka(model: Any) -> Any:
    return losses.MatryoshkaLoss(model, softmax(model), [32, 8])


def read(
    model: Any, folder: Path, data: Any, make: Any, workers: int = 1, collator: Any = None, **arguments: Any
) -> Any:
    """All that happens before workers start, in this process."""
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), **{"per_device_train_batch_size": 4, **arguments}
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=data,
        loss=make,
        data_collator=collator,
        scaling_config=ScalingConfig(num_workers=workers),
    )
    return build_here(trainer.data.train_specs(workers)[TRAIN]).source


def refused(match: str, *args: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        read(*args, **options)


@pytest.mark.parametrize("make", [losses.TripletLoss, losses.BatchAllTripletLoss, matryoshka])
def test_wrong_number_of_columns(tiny_model: Any, tmp_path: Path, make: Any) -> None:
    data = {"a": ONE, "b": TWO, "label": [0, 1] * 4}
    if make is matryoshka:
        data["c"] = THREE
    refused(r"needs \d text columns?; train_dataset has text columns", tiny_model, tmp_path, data, make)


@pytest.mark.parametrize(
    ("make", "label", "expected"),
    [
        (softmax, 3, "a whole number from 0 to 2 .*as label of SoftmaxLoss, found 3"),
        (
            matryoshka,
            3,
            r"a whole number from 0 to 2 \(or -100, which is ignored\) .*as label of MatryoshkaLoss, found 3",
        ),
        (softmax, 0.5, "a whole number from 0 to 2 .*as label of SoftmaxLoss, found 0.5"),
        (softmax, -1, "a whole number from 0 to 2 .*as label of SoftmaxLoss, found -1"),
        (losses.ContrastiveLoss, 1.5, "a number from 0 to 1 as label of ContrastiveLoss, found 1.5"),
        (losses.OnlineContrastiveLoss, 0.5, "a whole number from 0 to 1 .*found 0.5"),
        (losses.CoSENTLoss, float("nan"), r"a finite number as label, found (nan|None)"),
        (losses.CosineSimilarityLoss, float("inf"), "a finite number as label, found inf"),
        (losses.CosineSimilarityLoss, None, "a finite number as label, found None"),
    ],
)
def test_labels_out_of_range(tiny_model: Any, tmp_path: Path, make: Any, label: Any, expected: str) -> None:
    data = {"a": ONE, "b": TWO, "label": [1.0, 0.0, 1.0, 0.0, label, 1.0, 0.0, 1.0]}
    refused(
        rf"train_dataset: row 4, column 'label': expected {expected}.* 1 of 8 rows cannot be used",
        tiny_model,
        tmp_path,
        data,
        make,
    )
    skipped = read(tiny_model, tmp_path, data, make, bad_rows="skip")
    assert sorted(skipped.piece(0, 0).plan.rows) == [0, 1, 2, 3, 5, 6, 7]


def test_labels_of_the_wrong_type(tiny_model: Any, tmp_path: Path) -> None:
    data = {"a": ONE, "b": TWO, "label": ["same", "other"] * 4}
    refused(
        "row 0, column 'label': expected a finite number as label, found 'same'",
        tiny_model,
        tmp_path,
        data,
        softmax,
    )


def test_lists_of_unequal_length(tiny_model: Any, tmp_path: Path) -> None:
    scores = [[0.5, 0.25]] * 8
    scores[5] = [0.5, 0.25, 0.75]
    data = {"q": ONE, "p": TWO, "n": THREE, "label": scores}
    refused(
        "row 5, column 'label': expected a list of 2 numbers as label of DistillKLDivLoss, found a list of 3",
        tiny_model,
        tmp_path,
        data,
        losses.DistillKLDivLoss,
    )
    window = EncodedDataset([pa.table({"label": scores})], ColumnSpec(("q",), "label"))
    with pytest.raises(ColumnError, match=r"column 'label' row 4 has 2 numbers, row 5 has 3 \(1 of 3 rows"):
        window.label_array(np.array([4, 5, 6]))
    equal = window.label_array(np.array([4, 6]))
    assert equal is not None
    assert (equal.shape, equal.dtype) == ((2, 2), np.float32)


@pytest.mark.parametrize(
    ("make", "texts", "label", "expected"),
    [
        (losses.DistillKLDivLoss, 3, 0.5, "a list of 2 numbers as label of DistillKLDivLoss, found 0.5"),
        (losses.MarginMSELoss, 4, 0.5, "a list of 2 or 3 numbers as label of MarginMSELoss, found 0.5"),
        (losses.MarginMSELoss, 4, [0.5] * 4, "a list of 2 or 3 numbers .*, found a list of 4"),
        (losses.MarginMSELoss, 3, [0.5] * 3, "a number or a list of 2 numbers .*, found a list of 3"),
        (losses.MSELoss, 1, 0.5, "a list of numbers as label of MSELoss, found 0.5"),
        (lambda m: losses.MSELoss(m, 5), 1, [0.5] * 4, "a list of 5 numbers .*, found a list of 4"),
        (losses.BatchAllTripletLoss, 1, [0, 1, 0], "a whole number as label .*, found a list of 3"),
        (losses.CoSENTLoss, 2, [0.5, 0.5], "a number as label of CoSENTLoss, found a list of 2"),
        (softmax, 2, [0.5, 0.5], "a whole number .* or a list of 3 numbers .*, found a list of 2"),
    ],
)
def test_labels_of_another_form(
    tiny_model: Any, tmp_path: Path, make: Any, texts: int, label: Any, expected: str
) -> None:
    """A number for a list, one-hot labels, too few scores: every row is wrong, and no step is needed to see it."""
    data = dict.fromkeys("abcd"[:texts], ONE)
    refused(
        rf"train_dataset: row 0, column 'label': expected {expected}",
        tiny_model,
        tmp_path,
        {**data, "label": [label] * 8},
        make,
    )


@pytest.mark.parametrize(
    ("make", "texts", "label"),
    [
        (losses.DistillKLDivLoss, 3, [0.5, 0.25]),
        (losses.MarginMSELoss, 3, 0.5),
        (losses.MarginMSELoss, 3, [0.5]),
        (losses.MarginMSELoss, 3, [1, 0]),
        (losses.MSELoss, 1, [0.5] * 32),
        (losses.MSELoss, 2, [[0.5] * 32] * 2),
        (losses.CosineSimilarityLoss, 2, [0.5]),
        (softmax, 2, [0.5, 0.25, 0.25]),
        (softmax, 2, -100),
        (lambda m: losses.SoftmaxLoss(m, 32, 3, loss_fct=torch.nn.MSELoss()), 2, 0.5),
        (lambda m: torch.nn.Identity(), 2, [0.5, 0.25]),
    ],
)
def test_labels_of_the_right_form(tiny_model: Any, tmp_path: Path, make: Any, texts: int, label: Any) -> None:
    data = dict.fromkeys("abcd"[:texts], ONE)
    assert read(tiny_model, tmp_path, {**data, "label": [label] * 8}, make).steps == 2


@pytest.mark.parametrize("make", [losses.MarginMSELoss, losses.MSELoss, lambda m: torch.nn.Identity()])
def test_lists_of_two_lengths(tiny_model: Any, tmp_path: Path, make: Any) -> None:
    """Each row by itself will do, a batch of them will not."""
    scores = [[0.5, 0.25]] * 8
    scores[5] = [0.5]
    data = {"q": ONE, "p": TWO, "n": THREE, "label": scores}
    refused(
        "train_dataset: labels must be lists of one length; in column 'label' row 0 has 2 numbers, row 5 has 1",
        tiny_model,
        tmp_path,
        data,
        make,
    )
    taken = read(tiny_model, tmp_path, data, make, collator=list)
    assert taken.steps == 2


class TestClasses:
    """Labels of losses that tell classes apart: two that differ in their last digit stay two, in loss and sampler."""

    @pytest.mark.parametrize(
        "labels",
        [
            pa.array([20_000_000.0, 20_000_001.0] * 4),
            pa.array([2**53 + 1, 2**53 + 2] * 4, pa.int64()),
            pa.array([-(2**63), -(2**63) + 1] * 4, pa.int64()),
            pa.array([2**63 + 1, 2**63 + 2] * 4, pa.uint64()),
            pa.array([2**63 - 1, 2**63] * 4, pa.uint64()),
            pa.array([Decimal(2**62 + 1), Decimal(2**62)] * 4, pa.decimal128(30, 2)),
            pa.array([20_000_001, 20_000_002] * 4).dictionary_encode(),
        ],
    )
    def test_stay_apart(self, tiny_model: Any, tmp_path: Path, labels: pa.Array) -> None:
        data = pa.table({"a": ONE, "label": labels})
        source = read(
            tiny_model, tmp_path, data, losses.BatchAllTripletLoss, batch_sampler=BatchSamplers.GROUP_BY_LABEL
        )
        batch = source.piece(0, 0).plan.batch(0)
        assert np.bincount(batch % 2).tolist() == [2, 2]
        seen = source.windows[0].label_array(batch)
        assert seen.dtype == np.int64
        assert np.unique(seen, return_inverse=True)[1].reshape(-1).tolist() in (
            (batch % 2).tolist(),
            (1 - batch % 2).tolist(),
        )
        kept = losses.BatchAllTripletLoss(tiny_model).check_labels(torch.from_numpy(seen), 4)
        assert len(set(kept.tolist())) == 2

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            (pa.array([1.0, 2.0**53 + 2] * 4), "found 9007199254740994.0 in a column of floats.*as integers"),
            (pa.array([1.0, 2.0**24 + 2] * 4, pa.float32()), r"found 16777218.0 .* above 16,777,216"),
            (
                pa.array([Decimal("1.00"), Decimal("1.50")] * 4),
                r"expected a whole number .*found Decimal\('1.50",
            ),
            (pa.array([Decimal(1), Decimal(10**25)] * 4), "expected a whole number of 64 bits"),
        ],
    )
    def test_that_floats_may_have_merged(
        self, tiny_model: Any, tmp_path: Path, labels: pa.Array, match: str
    ) -> None:
        data = pa.table({"a": ONE, "label": labels})
        refused(rf"row 1, column 'label': {match}", tiny_model, tmp_path, data, losses.BatchAllTripletLoss)

    @pytest.mark.parametrize("missing", [None, [None], [math.nan]])
    def test_that_are_missing(self, tiny_model: Any, tmp_path: Path, missing: Any) -> None:
        labels = [[1.0], missing] * 4 if missing else [1.0, missing] * 4
        match = r"row 1, column 'label': expected a finite number as label.* 4 of 8"
        data = {"a": ONE, "label": labels}
        refused(match, tiny_model, tmp_path, data, losses.BatchAllTripletLoss)

    def test_in_lists_of_one(self, tiny_model: Any, tmp_path: Path) -> None:
        data = {"a": ONE, "label": [[20_000_000.0], [20_000_001.0]] * 4}
        seen = (
            read(tiny_model, tmp_path, data, losses.BatchAllTripletLoss).windows[0].label_array(np.arange(2))
        )
        assert seen.tolist() == [[20_000_000], [20_000_001]]

    def test_are_refused_by_the_loss_itself_where_its_tensor_merged_them(
        self, encoder: Any, make_features: Any
    ) -> None:
        labels = torch.tensor([1.0, 1.0, 20_000_001.0, 20_000_002.0])
        with pytest.raises(ValueError, match="float32, which holds not every whole number above 16,777,216"):
            losses.BatchAllTripletLoss(encoder)(make_features(1, 4), labels)

    def test_scores_stay_floats(self, tiny_model: Any, tmp_path: Path) -> None:
        rows = np.arange(8)
        for labels in (
            pa.array([2**63 + 1, 5] * 4, pa.uint64()),
            pa.array([Decimal("0.25"), Decimal(5)] * 4),
        ):
            data = pa.table({"a": ONE, "b": TWO, "score": labels})
            seen = read(tiny_model, tmp_path, data, losses.CoSENTLoss).windows[0].label_array(rows)
            assert seen.dtype == np.float32
            assert seen.tolist() == [np.float32(label) for label in labels.to_pylist()]
        integers = pa.table({"a": ONE, "b": TWO, "score": [3, 5] * 4})
        seen = read(tiny_model, tmp_path, integers, losses.CoSENTLoss).windows[0].label_array(rows)
        assert seen.tolist() == [3, 5] * 4


@pytest.mark.parametrize("make", [losses.BatchHardTripletLoss, losses.BatchSemiHardTripletLoss])
def test_one_class_only(tiny_model: Any, tmp_path: Path, make: Any) -> None:
    refused(
        "learns from rows of different labels; the 8 usable rows of train_dataset all have the same",
        tiny_model,
        tmp_path,
        {"a": ONE, "label": [7] * 8},
        make,
    )


def test_one_score_for_all_pairs(tiny_model: Any, tmp_path: Path) -> None:
    refused(
        "CoSENTLoss learns from rows of different labels",
        tiny_model,
        tmp_path,
        {"a": ONE, "b": TWO, "score": [0.5] * 8},
        losses.CoSENTLoss,
    )


def test_one_class_in_a_batch_is_left_to_the_step(encoder: Any, make_features: Any) -> None:
    with pytest.raises(
        ValueError, match=r"at least two classes in a batch; found 4 row\(s\), all of class 7"
    ):
        losses.BatchAllTripletLoss(encoder)(make_features(1, 4), torch.full((4,), 7))


class TestBatchOfOne:
    @pytest.mark.parametrize(
        "make",
        [
            losses.MultipleNegativesRankingLoss,
            losses.CachedMultipleNegativesRankingLoss,
            losses.MegaBatchMarginLoss,
            lambda model: losses.GISTEmbedLoss(model, model),
            lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [32]),
        ],
    )
    def test_is_refused(self, tiny_model: Any, tmp_path: Path, make: Any) -> None:
        match = r"takes the other rows of a batch as negatives; train_dataset has batches of 1 row\(s\)"
        refused(match, tiny_model, tmp_path, PAIRS, make, per_device_train_batch_size=1)

    def test_a_worker_counts_what_it_gathers(self, tiny_model: Any, tmp_path: Path) -> None:
        match = r"batches of 2 row\(s\) over 2 worker\(s\), one a worker. .*gather_across_devices=True"
        ranking, options = losses.MultipleNegativesRankingLoss, {"per_device_train_batch_size": 1}
        refused(match, tiny_model, tmp_path, PAIRS, ranking, workers=2, **options)

        def gathering(model: Any) -> Any:
            return ranking(model, gather_across_devices=True)

        assert read(tiny_model, tmp_path, PAIRS, gathering, workers=2, **options).steps == 4

    def test_does_with_negatives_of_its_own_and_for_other_losses(
        self, tiny_model: Any, tmp_path: Path
    ) -> None:
        options = {"per_device_train_batch_size": 1}
        data = {**PAIRS, "c": THREE}
        assert read(tiny_model, tmp_path, data, losses.MultipleNegativesRankingLoss, **options).steps == 8
        assert read(tiny_model, tmp_path, data, losses.TripletLoss, **options).steps == 8


class TestFullBatchesOnly:
    """``dataloader_drop_last=True`` where there is no full batch."""

    OPTIONS: ClassVar[dict[str, Any]] = {"dataloader_drop_last": True, "per_device_train_batch_size": 6}

    def test_fewer_rows_than_a_batch(self, tiny_model: Any, tmp_path: Path) -> None:
        ranking = losses.MultipleNegativesRankingLoss
        match = (
            r"train_dataset has 8 usable row\(s\), fewer than a global batch of 12, and dataloader_drop_last"
        )
        for data in (PAIRS, Dataset.from_dict(PAIRS)):
            refused(match, tiny_model, tmp_path, data, ranking, workers=2, **self.OPTIONS)
        assert read(tiny_model, tmp_path, PAIRS, ranking, **self.OPTIONS).steps == 1

    def test_rows_that_are_left_out_do_not_count(self, tiny_model: Any, tmp_path: Path) -> None:
        data = {"a": ONE, "b": [*TWO[:5], "", "", ""]}
        ranking = losses.MultipleNegativesRankingLoss
        refused("has 5 usable row", tiny_model, tmp_path, data, ranking, bad_rows="skip", **self.OPTIONS)

    def test_a_small_dataset_among_several(self, tiny_model: Any, tmp_path: Path) -> None:
        data = {"large": Dataset.from_dict(PAIRS), "small": Dataset.from_dict(PAIRS).select(range(3))}
        match = r"train_dataset\['small'\] has 3 usable row\(s\), fewer than a global batch of 6"
        refused(match, tiny_model, tmp_path, data, losses.MultipleNegativesRankingLoss, **self.OPTIONS)

    def test_repeats_that_fill_no_batch(self, tiny_model: Any, tmp_path: Path) -> None:
        data = {"a": ["one"] * 8, "b": TWO}
        sampler = BatchSamplers.NO_DUPLICATES
        match = "NoDuplicatesBatchSampler makes no batch in an epoch.*dataloader_drop_last=False"
        ranking = losses.MultipleNegativesRankingLoss
        refused(match, tiny_model, tmp_path, data, ranking, batch_sampler=sampler, **self.OPTIONS)


class TestGuide:
    def test_without_a_tokenizer(self, tiny_model: Any, tmp_path: Path) -> None:
        def guided(model: Any) -> Any:
            return losses.GISTEmbedLoss(model, torch.nn.Linear(2, 2))

        refused("the guide, Linear, has none", tiny_model, tmp_path, PAIRS, guided)

    def test_is_named_in_the_card(self, tiny_model: Any, tiny_folder: Path) -> None:
        from ray_st import SentenceTransformer

        guide = SentenceTransformer(tiny_folder, device="cpu")
        loss = losses.CachedGISTEmbedLoss(tiny_model, guide)
        assert isinstance(loss.get_config_dict()["guide"], str)
        guide.model_card_data.model_id = "org/guide"
        assert loss.get_config_dict()["guide"] == "org/guide"
