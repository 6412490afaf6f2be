from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pretended_device import pretended_device
from ray_st.models.tokens import padded
from ray_st.util.host_facts import (
    HOST_KEYS,
    TokenFacts,
    host_copy,
    is_host_key,
    with_host_facts,
    without_host_facts,
)
from ray_st.util.tensors import Arriving, batch_to_device, to_device


def texts(*lengths: int, left: bool = False, pad_id: int = 9) -> dict[str, torch.Tensor]:
    return padded([np.arange(1, length + 1) for length in lengths], pad_id, left)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_facts_are_those_of_the_mask(seed: int, left: bool) -> None:
    lengths = np.random.default_rng(seed).integers(0, 9, size=6)
    facts = TokenFacts.read(texts(*lengths, left=left))
    assert facts is not None
    assert facts.lengths.tolist() == lengths.tolist()
    assert (facts.left, facts.pad_id) == (left, 9)


def test_without_padding_there_is_no_id_and_either_side() -> None:
    facts = TokenFacts.read(texts(3, 3, left=True))
    assert facts is not None
    assert (facts.left, facts.pad_id) == (False, None)


@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 1, 0]], [[1, 0, 0], [0, 0, 1]]])
def test_other_masks_have_no_facts(mask: list[list[int]]) -> None:
    features = {"input_ids": torch.tensor(mask), "attention_mask": torch.tensor(mask)}
    assert TokenFacts.read(features) is None
    assert with_host_facts(features) == features


def test_features_carry_facts() -> None:
    features = with_host_facts(texts(2, 4, left=True))
    assert features["token_lengths"].tolist() == [2, 4]
    assert (features["padding_side"], features["pad_id"]) == ("left", 9)
    assert repr(TokenFacts.carried_by(features)) == repr(TokenFacts.read(features))
    assert set(without_host_facts(features)) == set(features) - set(HOST_KEYS)
    assert TokenFacts.carried_by(without_host_facts(features)) is None


def test_facts_are_those_of_one_mask_alone() -> None:
    features = with_host_facts(texts(2, 4))
    shorter = {**features, "attention_mask": features["attention_mask"] * torch.tensor([1, 1, 1, 0])}
    assert TokenFacts.carried_by(shorter) is None
    with pretended_device() as syncs:
        moved = batch_to_device(dict(features), "cuda")
        assert TokenFacts.carried_by(moved) is not None
        assert TokenFacts.carried_by({**moved, "token_lengths": moved["token_lengths"].to("cuda")}) is None
        syncs.take()
        moved["attention_mask"][:, -1] = 0
        assert TokenFacts.carried_by(moved) is None
        assert TokenFacts.carried_by({**moved, "attention_mask": moved["attention_mask"] * 1}) is None
        assert not syncs.take()


@pytest.mark.parametrize("name", ["input_ids", "attention_mask"])
def test_features_of_another_kind_have_no_facts(name: str) -> None:
    features = {key: value for key, value in texts(2, 4).items() if key != name}
    assert with_host_facts(features) == features
    assert TokenFacts.read({**texts(2, 4), "input_ids": torch.arange(6)}) is None


def test_columns_together() -> None:
    full, right, left = (TokenFacts.read(each) for each in (texts(3, 3), texts(1, 2), texts(1, 2, left=True)))
    joined = TokenFacts.joined([full, right])
    assert joined is not None
    assert joined.lengths.tolist() == [3, 3, 1, 2]
    assert (joined.left, joined.pad_id) == (False, 9)
    assert TokenFacts.joined([full, left]).left  # type: ignore[union-attr]
    assert TokenFacts.joined([full, full]).pad_id is None  # type: ignore[union-attr]
    assert TokenFacts.joined([left, right]) is None
    assert TokenFacts.joined([full, None]) is None


@pytest.mark.parametrize(
    ("name", "stays"),
    [("token_lengths", True), ("a_b_padding_side", True), ("q_input_ids", False), ("label", False)],
)
def test_which_inputs_stay_on_the_host(name: str, stays: bool) -> None:
    assert is_host_key(name) == stays


def test_a_batch_moves_without_what_is_for_the_host_and_without_waiting() -> None:
    features: dict[str, Any] = with_host_facts(texts(2, 4))
    with pretended_device() as syncs:
        moved = batch_to_device(dict(features), "cuda")
        devices = {
            name: value.device.type for name, value in moved.items() if isinstance(value, torch.Tensor)
        }
        assert devices == {"input_ids": "cuda", "attention_mask": "cuda", "token_lengths": "cpu"}
        assert torch.equal(host_copy(moved["input_ids"]), features["input_ids"])
        assert not syncs.take()


def _in_place(tensor: torch.Tensor) -> None:
    tensor.add_(1)


def _by_data(tensor: torch.Tensor) -> None:
    tensor.data = to_device(torch.arange(1, 4), "cuda")


@pytest.mark.parametrize("change", [_in_place, _by_data])
def test_a_copy_is_forgotten_when_the_tensor_changes(change: Callable[[torch.Tensor], None]) -> None:
    with pretended_device() as syncs:
        moved = to_device(torch.arange(3), "cuda")
        assert host_copy(moved).tolist() == [0, 1, 2]
        assert not syncs.take()
        change(moved)
        assert host_copy(moved).tolist() == [1, 2, 3]
        assert syncs.take().total() == 1


def test_a_tensor_arrives_after_one_wait() -> None:
    with pretended_device() as syncs:
        there = to_device(torch.randn(3, 2).bfloat16(), "cuda")
        arriving = Arriving(there)
        assert not syncs.take()
        assert torch.equal(arriving.wait(), host_copy(there))
        assert syncs.take().total() == 1
    assert Arriving(torch.ones(2)).wait().tolist() == [1, 1]
