"""Attention among the texts of a packed row, against one text and one head at a time."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import masking_utils

from ray_st.models.unpadded import packed_attention
from ray_st.models.unpadded.packed_attention import KERNEL, attend, suits_kernel
from ray_st.models.unpadded.packed_masks import Band, GroupMask, PackedMask, PackedTexts, packed_mask
from ray_st.models.unpadded.packed_rows import Packing

LENGTHS = [4, 9, 0, 1, 9, 4, 7, 2]
BANDS = [Band(-1, -1), Band(-1, 0), Band(2, 0), Band(2, 2), Band(0, 0), Band(5, 1), Band(8, 8)]


def brute_force(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    softcap: float | None = None,
) -> Tensor:
    """What ``torch.nn.attention.varlen.varlen_attn`` computes, one token and one head at a time."""
    assert cu_seq_q.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = (10**9 if reach < 0 else reach for reach in window_size)
    rows = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        for place in range(start, stop):
            seen = slice(max(start, place - left), min(stop, place + right + 1))
            heads = []
            for head in range(query.shape[1]):
                other = head // (query.shape[1] // key.shape[1])
                scores = key[seen, other] @ query[place, head]
                scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
                scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
                heads.append(scores.softmax(0) @ value[seen, other])
            rows.append(torch.stack(heads))
    return torch.stack(rows)


def packing_of(lengths: list[int]) -> Packing:
    return Packing.of((torch.arange(9) < torch.tensor(lengths)[:, None]).long())


def states(packing: Packing, heads: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(0)
    rows = len(packing.row)
    return [
        torch.randn(1, count, rows, 8, dtype=torch.float64, requires_grad=True)
        for count in (heads[0], heads[1], heads[1])
    ]


def result(given: list[Tensor], mask: Any, **options: Any) -> list[Tensor]:
    """What attention gives, and the gradients."""
    found, weights = attend(torch.nn.Module(), *given, mask, **options)
    assert weights is None
    tokens = len(mask.packing.tokens)
    assert not found[0, tokens:].any()
    return [found, *torch.autograd.grad((found * torch.arange(8)).sum(), given)]


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("band", BANDS)
def test_groups_give_what_each_text_gives_alone(band, heads, softcap) -> None:
    packing = packing_of(LENGTHS)
    given = states(packing, heads)
    query, key, value = (rows[0].transpose(0, 1) for rows in given)
    options = {"scale": 0.3, "window_size": (band.left, band.right), "enable_gqa": heads[0] != heads[1]}
    longest = packing.longest
    alone = brute_force(
        query, key, value, packing.ends, packing.ends, longest, longest, softcap=softcap, **options
    )
    wanted = [alone, *torch.autograd.grad((alone * torch.arange(8)).sum(), given)]
    found = result(given, PackedMask(packing, band), scaling=0.3, softcap=softcap)
    found[0] = found[0][0, : len(packing.tokens)]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("band", BANDS)
def test_a_kernel_for_any_lengths_gives_what_groups_give(band, heads, monkeypatch) -> None:
    packing = packing_of(LENGTHS)
    given, mask = states(packing, heads), PackedMask(packing, band)
    wanted = result(given, mask, scaling=0.3)
    monkeypatch.setattr(packed_attention, "suits_kernel", lambda states: True)
    monkeypatch.setattr(packed_attention, "KERNEL", brute_force)
    torch.testing.assert_close(result(given, mask, scaling=0.3), wanted)


def test_what_the_kernel_is_called_with_is_what_torch_takes() -> None:
    if KERNEL is None:
        assert torch.__version__ < "2.13"
        return
    theirs, mine = (inspect.signature(function).parameters for function in (KERNEL, brute_force))
    names = [name for name in mine if name != "softcap"]
    assert [theirs[name].kind for name in names] == [mine[name].kind for name in names]
    assert list(theirs)[:7] == list(mine)[:7]


def test_dropout_soft_caps_and_cpus_go_without_the_kernel(monkeypatch) -> None:
    packing = packing_of(LENGTHS)
    given, mask = states(packing, (2, 2)), PackedMask(packing, Band(-1, -1))
    assert not suits_kernel([rows.bfloat16() for rows in given])
    monkeypatch.setattr(packed_attention, "suits_kernel", lambda states: True)
    monkeypatch.setattr(packed_attention, "KERNEL", lambda *given, **options: pytest.fail("used"))
    result(given, mask, softcap=1.0)
    result(given, mask, dropout=0.5)


@pytest.mark.parametrize(
    ("device", "dtype", "size", "able", "fits"),
    [
        ("cuda", torch.bfloat16, 64, (8, 0), True),
        ("cuda", torch.float16, 64, (12, 0), True),
        ("cuda", torch.float32, 64, (8, 0), False),
        ("cuda", torch.bfloat16, 64, (7, 5), False),
        ("cuda", torch.bfloat16, 60, (8, 0), False),
        ("cuda", torch.bfloat16, 256, (9, 0), True),
        ("cuda", torch.bfloat16, 256, (8, 6), False),
        ("cuda", torch.bfloat16, 512, (9, 0), False),
        ("cpu", torch.bfloat16, 64, (8, 0), False),
    ],
)
def test_what_suits_the_kernel(device, dtype, size, able, fits, monkeypatch) -> None:
    class Rows:
        shape = (5, 2, size)

    rows = Rows()
    rows.device, rows.dtype = torch.device(device), dtype
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: able)
    assert suits_kernel([rows, rows, rows]) is fits


FUNCTIONS = {
    "bidirectional": (masking_utils.bidirectional_mask_function, Band(-1, -1)),
    "causal": (masking_utils.causal_mask_function, Band(-1, 0)),
    "causal window": (masking_utils.sliding_window_causal_mask_function(3), Band(2, 0)),
    "window": (masking_utils.sliding_window_bidirectional_mask_function(3), Band(3, 3)),
    "wide window": (masking_utils.sliding_window_causal_mask_function(9), Band(-1, 0)),
    "all but the last": (masking_utils.sliding_window_causal_mask_function(8), Band(7, 0)),
    "union": (
        masking_utils.or_masks(masking_utils.causal_mask_function, lambda *_: torch.tensor(True)),
        Band(-1, -1),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_band_is_what_a_models_function_says(name) -> None:
    function, wanted = FUNCTIONS[name]
    band = Band.of(function, 9)
    assert band == wanted
    queries, keys = torch.arange(9)[:, None], torch.arange(9)
    zero = torch.zeros(1, 1, dtype=torch.long)
    seen = function(zero, zero, queries, keys).expand(9, 9)
    mask = band.mask(9, torch.device("cpu"))
    assert torch.equal(torch.ones(9, 9, dtype=torch.bool) if mask is None else mask, seen)


def test_patterns_that_are_no_band_are_refused() -> None:
    chunked = masking_utils.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="attn_implementation"):
        Band.of(chunked, 9)


@pytest.mark.parametrize("band", BANDS)
def test_masks_are_made_for_groups_never_for_the_row(band) -> None:
    packing = packing_of([2, 2, 3] * 40)
    for group in packing.groups:
        mask = GroupMask.of(group, band).explicit(torch.device("cpu"))
        assert mask is None or mask.numel() <= group.shape[0] * group.shape[1] ** 2


def test_a_plain_batch_has_the_mask_of_sdpa() -> None:
    given = {
        "batch_size": 2,
        "q_length": 3,
        "kv_length": 3,
        "mask_function": masking_utils.causal_mask_function,
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]).bool(),
    }
    assert torch.equal(packed_mask(**given), masking_utils.sdpa_mask(**given))
    texts = PackedTexts(packing_of(LENGTHS))
    packed = packed_mask(**given | {"attention_mask": texts})
    assert (packed.packing, packed.band) == (texts.packing, Band(-1, 0))
