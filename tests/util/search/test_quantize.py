from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.quantization import quantize_embeddings

ROWS = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
RANGES = np.stack([ROWS.min(0) / 2, ROWS.max(0) / 2])


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize(
    "options",
    [{}, {"ranges": RANGES}, {"calibration_embeddings": ROWS[:150]}],
    ids=["own", "ranges", "calibrated"],
)
def test_as_the_peer(precision: str, options: dict[str, Any], peer: Any) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings as theirs

    found, expected = quantize_embeddings(ROWS, precision, **options), theirs(ROWS, precision, **options)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_steps_by_hand() -> None:
    ranges = np.array([[0.0], [255.0]])
    values = np.array([[-9.0], [0.0], [0.9], [1.0], [254.9], [255.0], [999.0]])
    assert quantize_embeddings(values, "uint8", ranges)[:, 0].tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert quantize_embeddings(values, "int8", ranges)[:, 0].tolist() == [
        -128,
        -128,
        -128,
        -127,
        126,
        127,
        127,
    ]


def test_bits_by_hand() -> None:
    values = np.array([[1, -1, 0, 1, -1, -1, -1, 2, 5.0]])
    assert quantize_embeddings(values, "ubinary").tolist() == [[0b10010001, 0b10000000]]
    assert quantize_embeddings(values, "binary").tolist() == [[0b10010001 - 128, 0]]


def test_a_dimension_without_range() -> None:
    assert quantize_embeddings(np.ones((100, 2)), "uint8").tolist() == [[0, 0]] * 100


@pytest.mark.parametrize(
    "form", [torch.from_numpy, lambda a: list(torch.from_numpy(a)), list], ids=["tensor", "tensors", "arrays"]
)
@pytest.mark.parametrize("precision", ["float32", "int8", "ubinary"])
def test_embeddings_in_any_form(form: Any, precision: str) -> None:
    np.testing.assert_array_equal(
        quantize_embeddings(form(ROWS), precision), quantize_embeddings(ROWS, precision)
    )


def test_few_rows_make_unsteady_ranges(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        quantize_embeddings(ROWS, "int8")
        assert caplog.text == ""
        quantize_embeddings(ROWS[:9], "int8")
    assert "int8 ranges taken from only 9 embeddings" in caplog.text


@pytest.mark.parametrize(
    ("embeddings", "precision", "message"),
    [
        (ROWS, "int4", "precision must be one of float32, .*; got 'int4'"),
        (ROWS.astype(np.int8), "binary", "needs floating-point embeddings; these are int8 already"),
        (ROWS[:1], "uint8", r"which \(1, 20\) embeddings cannot show; give ranges"),
        (ROWS[0], "int8", r"which \(20,\) embeddings cannot show"),
    ],
    ids=["precision", "twice", "one row", "one embedding"],
)
def test_what_cannot_be_quantised(embeddings: np.ndarray, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_embeddings(embeddings, precision)
