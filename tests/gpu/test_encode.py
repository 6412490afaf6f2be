"""``encode`` on a device: the values of the CPU, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.models import Dense, Normalize, Pooling, SentenceTransformer, Transformer
from ray_st.util.search.quantize import PRECISIONS

TEXTS = ["the weather is good", "a man eats pasta " * 3, "", "bad", "query document text " * 9, "is it sunny"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one batch": {"batch_size": 64},
    "normalized": {"normalize_embeddings": True},
    "truncated": {"truncate_dim": 8, "normalize_embeddings": True},
    "prompt": {"prompt": "query: "},
}


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_arrays_tensors_and_lists(
    options: dict[str, Any], device: torch.device, tiny: Callable[..., Any]
) -> None:
    options = {"batch_size": 2, **options}
    expected = tiny("cpu").encode(TEXTS, **options)
    model = tiny(device)
    assert {weight.device for weight in model.parameters()} == {device}
    same(model.encode(TEXTS, **options), expected)
    tensor = model.encode(TEXTS, convert_to_tensor=True, **options)
    assert tensor.device == device
    same(tensor.cpu(), expected)
    listed = model.encode(TEXTS, convert_to_numpy=False, **options)
    assert {row.device for row in listed} == {device}
    same(torch.stack(listed).cpu(), expected)
    same(model.encode(TEXTS[0], **options), expected[0])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.filterwarnings("ignore:Computing int8:UserWarning")
def test_precisions(precision: str, device: torch.device, tiny: Callable[..., Any]) -> None:
    expected = tiny("cpu").encode(TEXTS, precision=precision)
    found = tiny(device).encode(TEXTS, precision=precision)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
        found.astype(float), expected.astype(float), rtol=1e-3, atol=precision.endswith("int8")
    )
    tensor = tiny(device).encode(TEXTS, precision=precision, convert_to_tensor=True)
    assert tensor.shape == found.shape


@pytest.mark.parametrize("output", ["token_embeddings", None])
def test_tokens_and_all_features(output: str | None, device: torch.device, tiny: Callable[..., Any]) -> None:
    expected = tiny("cpu").encode(TEXTS, output_value=output)
    found = tiny(device).encode(TEXTS, output_value=output)
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        mine, other = ({"": mine}, {"": other}) if output else (mine, other)
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            same(torch.as_tensor(value).cpu(), torch.as_tensor(other[name]))


def test_moves_where_a_call_says(device: torch.device, tiny: Callable[..., Any]) -> None:
    model = tiny("cpu")
    expected = model.encode(TEXTS)
    same(model.encode(TEXTS, device=str(device)), expected)
    assert model.device == device
    same(model.encode(TEXTS, device="cpu"), expected)
    assert model.device == torch.device("cpu")


def test_nothing_to_encode(device: torch.device, tiny: Callable[..., Any]) -> None:
    model = tiny(device)
    assert model.encode([]).shape == (0, 32)
    assert model.encode([], convert_to_tensor=True).device == device


def test_similarities(device: torch.device, tiny: Callable[..., Any]) -> None:
    model = tiny(device)
    tensors, arrays = model.encode(TEXTS, convert_to_tensor=True), model.encode(TEXTS)
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        model.similarity_fn_name = name
        same(model.similarity(tensors, tensors).cpu(), model.similarity(arrays, arrays))
        same(model.similarity_pairwise(tensors, tensors).cpu(), model.similarity_pairwise(arrays, arrays))


def test_further_modules(device: torch.device, tiny_encoder: Any) -> None:
    torch.manual_seed(0)
    modules = [Transformer(tiny_encoder), Pooling(32, "cls"), Dense(32, 8), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu")
    expected = model.encode(TEXTS)
    same(model.to(device).encode(TEXTS), expected)
